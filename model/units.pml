/*
 * Sessions, leases, numbered syncs and grants, notices, epochs: two workers, one slot each, under one limit of MAX units.
 *
 * A sync says "n units, as of grant g": of a session's units those that grants up to g have brought become n, those above
 * stay and are told again. Redis keeps that as base (as of gb) and gl, the last grant's number; a grant is one unit.
 * A statement says it whenever it comes, any other sync where n has changed. A heartbeat of a session with nothing to
 * tell says it for Redis to compare: it renews the lease, or is answered MORE, and a statement follows. What a worker
 * may start it knows itself: n, used, new (granted and not yet used), and whether the limit is contended.
 *
 * Each inline is named after the Lua function (units_redis.pml) or the method (units_worker.pml) that it stands for. A
 * script is one step, as in Redis. Tasks come for ever; numbers begin again once nothing refers to them any more.
 *
 * What may go wrong is chosen by macros, see tools/model.py; NO_... takes a guard out.
 * What is left out, and the assumptions on time: docs/explanation/protocol-model.md.
 */
#define NW 2            /* workers */
#define NS 4            /* session ids: two for each worker, used in turn */
#ifndef MAX
#define MAX 1           /* of the limit */
#endif
#define LATE NW         /* messages LATE + w: what arrives after the worker has given up on it */
#define OWNER(s) ((s) >> 1)
#define CUR(w) (2 * (w) + cur[w])
#define UNITS(s) (base[s] + gl[s] - gb[s])
#define HELD (UNITS(0) + UNITS(1) + UNITS(2) + UNITS(3))
#define TOP 5           /* grant numbers of a session, until they begin again */
#define INTERVAL 1      /* how long nothing is granted: until all who are not cut off have rejoined ... */
#define TIMEOUT 2       /* ... until every lease of another epoch has ended */
#ifdef LEASES           /* the workers' timeouts differ: worker 0's is longer */
#define LONG 3          /* until its leases have ended, too; TIMEOUT: worker 1's only */
#endif
#define STAR 9          /* CONTENDED: more than one session waits */
#ifndef FAULTS
#define FAULTS 255      /* 255: without bound */
#endif
#ifndef TASKS
#define TASKS 255       /* 255: tasks come for ever */
#endif
#ifndef LOSSES
#define LOSSES 1        /* how often data may be lost */
#endif
#define FAULT (faults > 0)
#define SPEND if :: faults < 255 -> faults-- :: else fi

/* ---- Redis ---- */
byte epoch = 0;         /* meta.epoch, in order of their time; 0: no data */
byte epochs = 0;
bit same_run = 1;       /* meta's run id is the server's */
bit young = 0;          /* the server has just started */
byte grown = 0;         /* the leases of before this epoch have ended (LEASES: 1 the short one, 2 the long one) */
byte shut = 0;
bit fresh = 0;          /* the limit settles */
bit live[NS], seen[NS]; /* in SESSIONS; has stated by a version that is not older than the limit */
byte ss[NS];            /* number of the last sync: 0 none, 1 some (see NUMBERS) */
byte base[NS], gb[NS], gl[NS];
bit room[NS], want[NS]; /* want: of one request; it stands in WAITERS */
byte flag = 0;          /* CONTENDED: 0, session + 1 or STAR */
bit lossy = 0;          /* ghost: data was lost since the epoch began */
#ifdef LEASES
bit hears = 0;          /* heard: of a long lease that was given before this epoch */
bit heard[NW];          /* by the worker: longest, as last told, was a long one */
bit mlong[2 * NW];      /* the same, in its message */
bit heard_ever[NW];     /* ghost: it was answered while a long lease was live */
#define LONG_LIVES (live[0] || live[1])
#ifndef NO_HEARSAY
#define TELLS_LONG (LONG_LIVES || (hears && grown < 2))
#else
#define TELLS_LONG LONG_LIVES
#endif
#define BRINGS_LONG(c) (OWNER(ms[c]) == 0 || mlong[c])
#ifndef NO_CHANNELS
#define CHANNELS_TELL_LONG sub[0]
#else
#define CHANNELS_TELL_LONG 0
#endif
#ifndef NO_LONGEST
#define LONGEST(c) (hears || LONG_LIVES || BRINGS_LONG(c))
#else
#define LONGEST(c) (OWNER(ms[c]) == 0)
#endif
#define HEARS(what) if :: (what) -> hears = 1 :: else fi
#define HAS_GROWN (grown == 2 || (grown == 1 && lease == TIMEOUT))
#define HEARD_BY(w) heard_ever[w]
#else
#define HEARS(what) skip
#define HAS_GROWN grown
#define HEARD_BY(w) 1
#endif

#ifdef SNAPSHOT
bit has_snap = 0, snapped = 0, z_fresh, z_grown;
byte z_epoch, z_shut, z_flag;
bit z_live[NS], z_seen[NS], z_want[NS], z_room[NS];
byte z_ss[NS], z_base[NS], z_gb[NS], z_gl[NS];
#endif

/* ---- Notices on their way, by session ---- */
byte ng[NS];            /* a grant's number, 0: none */
bit nrec[NS];           /* the limit is contended */

/* ---- Workers: worker/ledger, worker/session ---- */
bit up[NW] = 1, joined[NW], cur[NW], trust[NW], contended[NW], needs[NW], due[NW], chg[NW], sub[NW], cf[NW], cut[NW];
bit reopen[NW], unheard[NW], reuse[NW]; /* unheard: the id after cur may be open in Redis */
bit passed[NW];         /* ghost: the lease of cur has ended on the lease clock */
bit exempt[NW];         /* ghost: what runs has outlived its lease (the documented exception) */
bit wait_[NW], asked[NW], used[NW];
byte known[NW], n[NW], new_[NW], gk[NW];
byte phase[NW];         /* 0: nothing under way, 1: a sync, 2: an open */
bit head = 0;           /* the worker whose request reached its gate first */
byte faults = FAULTS, tasks = TASKS, lost_data = 0;
bit crashed = 0;

/* ---- Messages: 1 sync, 2 open, 3 heartbeat ---- */
byte mv[2 * NW], ms[2 * NW], mep[2 * NW], msn[2 * NW], mg[2 * NW], mn[2 * NW];
bit mset[2 * NW], mwant[2 * NW], mroom[2 * NW], mcf[2 * NW], mstart[2 * NW]; /* mset: says how many units */

hidden byte i, j, x, me, st, was, lease;
#define OK 1
#define CLOSED 2
#define STALE 3
#define MORE 4
#define NOBODY 7

/* NUMBERS of syncs: a new one is 3; one that was delayed and not executed 2; Redis remembers 1 when it has executed any
   (a delayed one that was overtaken, or was executed before, becomes 0 or 1); 0: none yet. */

#define RUNNING ((used[0] && !exempt[0]) + (used[1] && !exempt[1]))
#define HAS_UNIT (shut == 0 && !fresh && HELD < MAX)
#define LINE_EMPTY (!want[0] && !want[1] && !want[2] && !want[3])
#define IN_LINE_OF_OTHERS(s) ((s != 0 && want[0]) || (s != 1 && want[1]) || (s != 2 && want[2]) || (s != 3 && want[3]))
#define CONTENTION(s) (HELD > MAX || (flag != 0 && flag != s + 1 && IN_LINE_OF_OTHERS(s)))
#define LISTENS(s) (sub[OWNER(s)] && cur[OWNER(s)] == (s & 1) && !unheard[OWNER(s)])

#include "units_redis.pml"
#include "units_worker.pml"

inline script(c) { if :: mv[c] == 3 -> heartbeat(c) :: else -> sync(c) fi } /* that a message calls */

/* ======== the processes ======== */

/* gate.py: tasks come, start, end */
proctype Gate(byte w) {
  do
  :: d_step { up[w] && !wait_[w] && joined[w] && tasks > 0 ->
       if :: tasks < 255 -> tasks-- :: else fi;
       wait_[w] = 1;
       if :: !wait_[1 - w] -> head = w :: else fi;
       if :: LACKS(w) -> due[w] = 1 :: else fi }
  :: d_step { up[w] && wait_[w] && !used[w] && USABLE(w) -> start(w) }
  :: d_step { up[w] && used[w] ->
       used[w] = 0; exempt[w] = 0;
       if :: !REUSABLE(w) -> give_back(w, 1) :: else fi;
       if :: LACKS(w) -> due[w] = 1 :: else fi }
  :: d_step { up[w] && used[w] && new_[w] -> drop_new(w) }    /* granted, and the slot has gone */
  od
}

/* session.py: a step at a time, on the link's thread */
#define MAY_SYNC(w) (up[w] && phase[w] == 0 && joined[w] && !reopen[w])
#ifdef INSTANT
#define HEARS_NOTICES(w) (MAY_SYNC(w))
#else                   /* also while a sync is under way */
#define HEARS_NOTICES(w) (up[w] && phase[w] < 2 && joined[w] && !reopen[w])
#endif
proctype Link(byte w) {
  do
  :: d_step { up[w] && phase[w] == 0 && (!joined[w] || reopen[w]) -> holdings(w) }
#ifdef INSTANT          /* nothing happens while a sync is under way */
  :: d_step { MAY_SYNC(w) && !cut[w] ->
       sub[w] = 1; collect(w, !(due[w] || needs[w]));
       script(w);
       if
       :: st == OK -> no_late_beat(w); apply(w)
       :: st == STALE || st == MORE -> needs[w] = 1; due[w] = 1; phase[w] = 0; forget_message(w)
       :: else -> reopen[w] = 1; phase[w] = 0; forget_message(w)
       fi;
       st = 0; me = 0 }
#else
  :: d_step { MAY_SYNC(w) && (due[w] || needs[w]) -> sub[w] = 1; collect(w, 0) }
#ifndef NO_BEAT
  :: d_step { MAY_SYNC(w) && !due[w] && !needs[w] -> sub[w] = 1; collect(w, 1) }
#endif
  :: d_step { up[w] && phase[w] == 1 && !cut[w] ->            /* executed, and answered */
       script(w);
       if
       :: st == OK -> overtaken(w); apply(w)
       :: st == MORE -> needs[w] = 1; collect(w, 0)
       :: st == STALE -> needs[w] = 1; due[w] = 1; phase[w] = 0; forget_message(w)
       :: else -> reopen[w] = 1; phase[w] = 0; forget_message(w)
       fi;
       st = 0; me = 0 }
#endif
#ifdef DELAYED
#ifdef INSTANT
  :: d_step { FAULT && MAY_SYNC(w) && mv[LATE + w] == 0 ->
       collect(w, !(due[w] || needs[w])); delay(w); sync_failed(w); SPEND }
#else
  :: d_step { FAULT && up[w] && (phase[w] == 1 || phase[w] == 2) && mv[LATE + w] == 0 -> delay(w); sync_failed(w); SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 1 && !cut[w] && mv[LATE + w] == 0 -> /* executed, not answered, and once more */
       delay(w); script(w);
       if
       :: st == MORE                                        /* the same message once more may be answered OK */
       :: st == OK && mv[w] == 3 -> forget_message(LATE + w) /* it would change nothing */
       :: else -> msn[LATE + w] = 1
       fi;
       sync_failed(w); st = 0; me = 0; SPEND }
#endif
#endif
  :: d_step { up[w] && phase[w] == 2 && !cut[w] -> open_(w); opened(w); st = 0; me = 0 }
  :: d_step { up[w] && phase[w] == 0 && SPARE(w) > 0 && (!wait_[w] || !REUSABLE(w)) -> give_back(w, SPARE(w)) } /* release_idle */
  :: d_step { up[w] && phase[w] == 0 && new_[w] && !wait_[w] -> drop_new(w) }
  :: d_step { HEARS_NOTICES(w) && nrec[CUR(w)] -> nrec[CUR(w)] = 0; contended[w] = 1; settle(w) }
  :: d_step { HEARS_NOTICES(w) && sub[w] && ng[CUR(w)] -> noticed(w); ng[CUR(w)] = 0; renumber(w) }
#ifdef MESSAGES
  :: d_step { FAULT && HEARS_NOTICES(w) && sub[w] && ng[CUR(w)] -> noticed(w); SPEND } /* it comes once more */
  :: d_step { FAULT && up[w] && (phase[w] == 1 || phase[w] == 2) && mv[w] -> sync_failed(w); SPEND }  /* not executed */
  :: d_step { FAULT && up[w] && phase[w] == 1 && !cut[w] ->  /* executed, the answer is lost */
       script(w);
       if :: st == OK -> overtaken(w) :: else fi;
       sync_failed(w); st = 0; me = 0; SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 2 && !cut[w] -> open_(w); sync_failed(w); st = 0; me = 0; SPEND }
  :: d_step { FAULT && up[w] && sub[w] && (nrec[CUR(w)] || ng[CUR(w)]) -> no_notices(CUR(w)); SPEND }
#endif
  od
}

/* Leases end: the worker's own trust first, then the session in Redis. */
#define TRUSTED(s) (up[OWNER(s)] && trust[OWNER(s)] && (cur[OWNER(s)] == (s & 1) || unheard[OWNER(s)]))
proctype Lease(byte s) {
  do
#ifdef EXPIRY
  :: d_step { FAULT && up[OWNER(s)] && cur[OWNER(s)] == (s & 1) && trust[OWNER(s)] -> trust[OWNER(s)] = 0; SPEND }
#endif
#ifdef NO_TRUST_FIRST
  :: d_step { epoch && live[s] ->
#else
  :: d_step { epoch && live[s] && !TRUSTED(s) ->
#endif
       begin();
       me = NOBODY;
       if :: up[OWNER(s)] && used[OWNER(s)] && !trust[OWNER(s)] -> exempt[OWNER(s)] = 1 :: else fi;
       if :: cur[OWNER(s)] == (s & 1) -> passed[OWNER(s)] = 1 :: else fi;
       end_session_soon(s); finish(); me = 0 }
  od
}

#define OLD_TRUST(w) (up[w] && joined[w] && trust[w] && known[w] != epoch)
#define REJOINS(w) (OLD_TRUST(w) && !cut[w])
#ifdef LEASES           /* what still runs on a lease of before when grants go on has outlived it */
#define OUTLIVES(w) if :: up[w] && used[w] && !trust[w] && known[w] != epoch -> exempt[w] = 1 :: else fi
#else
#define OUTLIVES(w) skip
#endif
inline opens_up() {
  shut = 0; OUTLIVES(0); OUTLIVES(1);
  me = NOBODY; finish(); me = 0; young = 0
}
proctype Clock() {
  do
  :: d_step { epoch && same_run && shut == INTERVAL && !REJOINS(0) && !REJOINS(1) -> opens_up() }
#ifdef LEASES
  :: d_step { epoch && same_run && shut == TIMEOUT && !REJOINS(0) && !OLD_TRUST(1) -> opens_up() }
  :: d_step { epoch && same_run && shut == LONG && !OLD_TRUST(0) && !OLD_TRUST(1) -> opens_up() }
  :: d_step { epoch && grown == 0 && !REJOINS(0) && !OLD_TRUST(1) -> grown = 1; young = 0 }
  :: d_step { epoch && grown == 1 && !OLD_TRUST(0) && !OLD_TRUST(1) -> grown = 2 }
#else
  :: d_step { epoch && same_run && shut == TIMEOUT && !OLD_TRUST(0) && !OLD_TRUST(1) -> opens_up() }
#ifdef LOSS
  :: d_step { epoch && !grown && !OLD_TRUST(0) && !OLD_TRUST(1) -> grown = 1; young = 0 }
#endif
#endif
  od
}

proctype Trouble() {
  byte w;
  do
#ifdef DELAYED
  :: atomic { if :: mv[LATE + 0] -> w = 0 :: mv[LATE + 1] -> w = 1 fi;
       d_step { if :: mv[LATE + w] == 2 -> open_(LATE + w) :: else -> script(LATE + w) fi;
         forget_message(LATE + w); st = 0; me = 0; w = 0 } }
#endif
#ifdef CRASH
  :: atomic { if :: !crashed && up[0] && joined[0] -> w = 0 :: !crashed && up[1] && joined[1] -> w = 1 fi;
       d_step { crashed = 1; up[w] = 0; used[w] = 0; n[w] = 0; new_[w] = 0; wait_[w] = 0; asked[w] = 0; gk[w] = 0;
         contended[w] = 0; chg[w] = 0; unheard[w] = 0; passed[w] = 0; exempt[w] = 0; trust[w] = 0; sub[w] = 0; joined[w] = 0;
         known[w] = 0; reopen[w] = 0; phase[w] = 0; needs[w] = 0; due[w] = 0; cf[w] = 0; cut[w] = 0; reuse[w] = 0;
#ifdef LEASES
         heard[w] = 0; heard_ever[w] = 0;
#endif
         no_notices(2 * w); no_notices(2 * w + 1); forget_message(w); w = 0 } }
  :: d_step { !up[0] && mv[LATE] == 0 && !live[1 - cur[0]] -> up[0] = 1 }
  :: d_step { !up[1] && mv[LATE + 1] == 0 && !live[2 + 1 - cur[1]] -> up[1] = 1 }
#endif
#ifdef FLUSH
  :: atomic { lost_data < LOSSES && epoch && !exempt[0] && !exempt[1] ->
       d_step { lost_data++; no_data() };
#ifdef CUT              /* a worker that listens may be cut off, and Redis doesn't notice */
       if :: up[0] && joined[0] && trust[0] && sub[0] -> cut[0] = 1 :: up[1] && joined[1] && trust[1] && sub[1] -> cut[1] = 1 :: true fi
#endif
     }
#endif
#ifdef RESTART
  :: atomic { lost_data < LOSSES && epoch && !exempt[0] && !exempt[1] ->
       d_step { lost_data++; no_data(); no_connections(); young = 1 };
#ifdef CUT              /* a worker may be cut off whose lease another that lived has heard of */
       if :: up[0] && joined[0] && trust[0] && up[1] && joined[1] && HEARD_BY(1) -> cut[0] = 1
          :: up[1] && joined[1] && trust[1] && up[0] && joined[0] -> cut[1] = 1
          :: true
       fi
#endif
     }
#endif
#ifdef REPOINT          /* to an empty server that has been up for long */
  :: d_step { lost_data < LOSSES && epoch && !exempt[0] && !exempt[1] -> lost_data++; no_data(); no_connections(); young = 0 }
#endif
#ifdef SNAPSHOT
  :: d_step { !snapped && epoch ->
       snapped = 1; has_snap = 1; z_epoch = epoch; z_shut = shut; z_fresh = fresh; z_grown = grown; z_flag = flag;
       i = 0;
       do :: i < NS -> z_live[i] = live[i]; z_seen[i] = seen[i]; z_want[i] = want[i]; z_room[i] = room[i]; z_ss[i] = ss[i];
             z_base[i] = base[i]; z_gb[i] = gb[i]; z_gl[i] = gl[i]; i++ :: else -> break od;
       i = 0 }
  :: atomic { has_snap ->
       d_step {
         no_data();
         epoch = z_epoch; shut = z_shut; fresh = z_fresh; grown = z_grown; flag = z_flag;
         i = 0;
         do :: i < NS -> live[i] = z_live[i]; seen[i] = z_seen[i]; want[i] = z_want[i]; room[i] = z_room[i]; ss[i] = z_ss[i];
               base[i] = z_base[i]; gb[i] = z_gb[i]; gl[i] = z_gl[i];
               z_live[i] = 0; z_seen[i] = 0; z_want[i] = 0; z_room[i] = 0; z_ss[i] = 0; z_base[i] = 0; z_gb[i] = 0; z_gl[i] = 0;
               i++ :: else -> break od;
         i = 0; has_snap = 0; z_epoch = 0; z_shut = 0; z_fresh = 0; z_grown = 0; z_flag = 0;
#ifndef SAME_RUN
         same_run = 0; no_connections(); young = 1
#endif
       };
#ifdef CUT              /* one whose session is in the table may be cut off until its lease has ended */
       if :: up[0] && joined[0] && live[cur[0]] && trust[0] -> cut[0] = 1 :: up[1] && joined[1] && live[2 + cur[1]] && trust[1] -> cut[1] = 1 :: true fi
#endif
     }
#endif
#ifdef CUT
#ifdef LEASES           /* leases end, whoever is cut off */
  :: d_step { cut[0] && trust[0] -> trust[0] = 0 }
  :: d_step { cut[1] && trust[1] -> trust[1] = 0 }
#endif
  :: d_step { cut[0] && !trust[0] -> cut[0] = 0 }
  :: d_step { cut[1] && !trust[1] -> cut[1] = 0 }
#endif
  :: false
  od
}

init {
  atomic {
    run Gate(0); run Gate(1); run Link(0); run Link(1);
    run Lease(0); run Lease(1); run Lease(2); run Lease(3);
    run Clock(); run Trouble()
  }
}

#ifdef LIVENESS
ltl served { [] (wait_[0] -> <> (!wait_[0])) }
#endif
