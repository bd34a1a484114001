/*
 * Protocol 2: sessions hold units of a limit. Two workers, one slot each, one limit of MAX units.
 *
 * A sync says "n units, as of grant g": of a session's units those that grants up to g have brought become n, those above
 * stay and are told again. Redis keeps that as base (as of gb) and gl, the last grant's number; a grant is one unit. A
 * statement says it whenever it comes, a change only where n has changed, and a heartbeat says a digest, which Redis
 * compares. What a worker may start it knows itself: n, used, new (granted and not yet used), level (others want).
 *
 * A script is one step, as in Redis. Tasks come for ever; numbers begin again once nothing refers to them any more. What
 * may go wrong is chosen by macros (runs.json); NO_... takes a guard out. Time is left out, as in session.pml: an order of
 * ends (trust before lease, the short wait before the long one) stands for it.
 */
#define NW 2            /* workers */
#define NS 4            /* session ids: two for each worker, used in turn */
#ifndef MAX
#define MAX 1
#endif
#define LATE NW         /* messages LATE + w: what arrives after the worker has given up on it */
#define OWNER(s) ((s) >> 1)
#define CUR(w) (2 * (w) + cur[w])
#define UNITS(s) (base[s] + gl[s] - gb[s])
#define HELD (UNITS(0) + UNITS(1) + UNITS(2) + UNITS(3))
#define TOP 5           /* grant numbers of a session, until they begin again */
#define INTERVAL 1      /* how long nothing is granted: until all who are not cut off have rejoined ... */
#define TIMEOUT 2       /* ... until every lease of another epoch has ended */
#ifndef FAULTS
#define FAULTS 255      /* 255: without bound */
#endif
#ifndef TASKS
#define TASKS 255
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#define FAULT (faults > 0)
#define SPEND if :: faults < 255 -> faults-- :: else fi

/* ---- Redis ---- */
byte epoch = 0, epochs = 0;
bit same_run = 1;       /* meta's run id is the server's */
bit grown = 0;          /* the longest lease that may have been given before this epoch has ended */
byte shut = 0;
bit fresh = 0;          /* the limit settles */
bit live[NS], seen[NS];
byte ss[NS];            /* number of the last sync: 0 none, 1 some */
byte base[NS], gb[NS], gl[NS], room[NS];
bit want[NS];           /* class 3: a request in hand */
bit told[NS];           /* level, as the session was told */
bit lossy = 0;          /* ghost: data was lost since the epoch began */
#ifdef SNAPSHOT
bit has_snap = 0, snapped = 0, z_fresh, z_grown;
byte z_epoch, z_shut;
bit z_live[NS], z_seen[NS], z_want[NS], z_told[NS];
byte z_ss[NS], z_base[NS], z_gb[NS], z_gl[NS], z_room[NS];
#endif

/* ---- Notices on their way, by session ---- */
byte ng[NS];            /* a grant's number, 0: none */
bit nrec[NS];           /* level has risen */

/* ---- Workers ---- */
bit up[NW] = 1, joined[NW], cur[NW], trust[NW], level[NW], needs[NW], due[NW], chg[NW], sub[NW], cf[NW], cut[NW];
bit reopen[NW], unheard[NW], reuse[NW], wait_[NW];
bit passed[NW], exempt[NW]; /* ghosts: the lease has ended in Redis; what runs has outlived its lease */
byte known[NW], n[NW], used[NW], new_[NW], gk[NW], phase[NW];   /* phase: 1 a sync is under way, 2 an open */
bit head = 0;           /* the worker whose request reached its gate first */
byte faults = FAULTS, tasks = TASKS, lost_data = 0;
bit crashed = 0;

/* ---- Messages: 1 sync, 2 open; of a sync: 0 change, 1 statement, 2 digest ---- */
byte mv[2 * NW], ms[2 * NW], mep[2 * NW], msn[2 * NW], mg[2 * NW], mn[2 * NW], mkind[2 * NW];
bit mset[2 * NW], mwant[2 * NW], mroom[2 * NW], mcf[2 * NW], mstart[2 * NW];

hidden byte i, x, me, st, was, lease;
bit differs = 0;        /* of an answer: the digest differs */
#define OK 1
#define CLOSED 2
#define STALE 3
#define NOBODY 7

#ifdef SNAPSHOT
#define NOT_IN_SNAPSHOT && !has_snap
#else
#define NOT_IN_SNAPSHOT
#endif
#define RUNNING ((exempt[0] -> 0 : used[0]) + (exempt[1] -> 0 : used[1]))
#define HAS_UNIT (shut == 0 && !fresh && HELD < MAX)
#define WANTS(s) (live[s] && want[s] && room[s])
#define OTHERS_WANT(s) ((s != 0 && WANTS(0)) || (s != 1 && WANTS(1)) || (s != 2 && WANTS(2)) || (s != 3 && WANTS(3)))
#define LEVEL(s) (live[s] && UNITS(s) > 0 && (HELD > MAX || OTHERS_WANT(s)))
#define HEARS(s) (sub[OWNER(s)] && cur[OWNER(s)] == (s & 1) && !unheard[OWNER(s)])

/* ======== scripts ======== */

inline end_session(s) {
  live[s] = 0; seen[s] = 0; ss[s] = 0; base[s] = 0; gb[s] = 0; gl[s] = 0; want[s] = 0; room[s] = 0; told[s] = 0
}

inline serve(s) {       /* R2 */
  if
  :: WANTS(s) && HAS_UNIT && gl[s] < TOP ->
     gl[s]++; room[s] = 0; want[s] = 0;
     if
#ifndef NO_NOTICES
     :: s != me && HEARS(s) -> ng[s] = gl[s]
#endif
     :: else
     fi
  :: else
  fi
}

inline finish() {       /* limits open, R2, R3 */
  if
  :: fresh && (!live[0] || seen[0]) && (!live[1] || seen[1]) && (!live[2] || seen[2]) && (!live[3] || seen[3]) -> fresh = 0
  :: else
  fi;
  if
  :: head == 0 -> serve(0); serve(1); serve(2); serve(3)
  :: else -> serve(2); serve(3); serve(0); serve(1)
  fi;
  i = 0;
  do
  :: i < NS ->
     if
#if !defined(NO_NOTICES) && !defined(NO_TELLING)
     :: LEVEL(i) && !told[i] && i != me && HEARS(i) -> nrec[i] = 1
#endif
     :: else
     fi;
     told[i] = LEVEL(i);
     i++
  :: else -> break
  od;
  i = 0
}

inline begin_epoch(h) {
  assert(lossy);        /* never a new epoch without need */
  epochs++; epoch = epochs; same_run = 1; grown = 0; lossy = 0;
#ifndef NO_SHUT
  if :: shut < h -> shut = h :: else fi;
#endif
#ifndef NO_FRESH
  fresh = 1;
#endif
  seen[0] = 0; seen[1] = 0; seen[2] = 0; seen[3] = 0
}

inline begin() {
#ifndef NO_RUN_ID
  if :: epoch && !same_run -> begin_epoch(INTERVAL) :: else fi
#else
  skip
#endif
}

#define LIVED(c) (mep[c] != 0)

inline open_(c) {       /* R6 */
  begin();
  me = ms[c];
  was = (LIVED(c) && mep[c] != epoch);                  /* data was lost */
  x = (LIVED(c) && !live[me] && !live[me ^ 1]);         /* lapsed */
  if
  :: epoch == 0 ->
     lossy = 1; lease = TIMEOUT;
#ifdef NO_HOLD
     begin_epoch(0);
#else
     if :: LIVED(c) || sub[0] || sub[1] -> skip :: else -> lease = INTERVAL fi;
     begin_epoch(lease);
#endif
     fresh = 0
  :: epoch != 0 && x && was ->
     lease = TIMEOUT;
     if :: mep[c] > epoch -> begin_epoch(lease) :: else fi;
#ifndef NO_STALE_SHUT
     if :: !grown && shut < lease -> shut = lease :: else fi
#else
     skip
#endif
  :: epoch != 0 && x && !was && !passed[OWNER(me)] -> lease = TIMEOUT; begin_epoch(lease); was = 1
  :: else
  fi;
  if :: mstart[c] :: else -> end_session((me ^ 1)) fi;
  end_session(me);
  live[me] = 1;
#ifndef NO_ADOPTION
  base[me] = mn[c];
#endif
  seen[me] = (LIVED(c) && !was);
  was = 0; x = 0; lease = 0;
  finish();
  st = OK
}

#ifdef NO_EPOCH
#define SAME_EPOCH(c) (1)
#else
#define SAME_EPOCH(c) (epoch == mep[c])
#endif
#ifdef NO_SYNC_NUMBER
#define OLD_NUMBER(c) (0)
#else
#define OLD_NUMBER(c) (msn[c] <= ss[me])
#endif

inline sync(c) {        /* R1 */
  me = ms[c]; differs = 0;
  if
  :: epoch == 0 -> st = CLOSED
  :: else ->
     begin();
#ifndef NO_CONFIRMED
     if :: epoch == mep[c] && live[me] && ss[me] < mcf[c] -> begin_epoch(INTERVAL) :: else fi;
#endif
     if
     :: !SAME_EPOCH(c) || !live[me] -> st = CLOSED
     :: SAME_EPOCH(c) && live[me] && OLD_NUMBER(c) -> st = STALE
     :: else ->
        st = OK; ss[me] = 1;
        if
        :: mset[c] ->
#ifdef NO_ABOVE         /* it removes grants that it couldn't know of */
           base[me] = mn[c]; gb[me] = gl[me]
#else
           base[me] = mn[c]; gb[me] = mg[c];
           if :: gl[me] < gb[me] -> gl[me] = gb[me] :: else fi
#endif
        :: else
        fi;
        if
        :: mkind[c] == 1 -> seen[me] = 1
        :: mkind[c] == 2 ->
           if
           :: mg[c] >= gb[me] && base[me] + mg[c] - gb[me] == mn[c] -> seen[me] = 1
           :: else ->
#ifdef NO_DIGEST        /* a digest that differs is taken for a statement, and nothing is asked for */
              seen[me] = 1
#else
              differs = 1
#endif
           fi
        :: else
        fi;
        want[me] = mwant[c];
#ifdef NO_ROOM_LESS_GRANTS
        room[me] = mroom[c];
#else
        room[me] = (mroom[c] && gl[me] == mg[c]);
#endif
        finish()
     fi
  fi
}

inline no_data() {
  epoch = 0; shut = 0; fresh = 0; grown = 0; same_run = 1; lossy = 1;
  end_session(0); end_session(1); end_session(2); end_session(3)
}

/* ======== workers ======== */

#define IDLE(w) (n[w] - used[w] - new_[w])
#define REUSABLE(w) (trust[w] && reuse[w] && !level[w])
#ifndef NO_LEASE_CHECK
#define USABLE(w) (trust[w] && (new_[w] > 0 || (IDLE(w) > 0 && REUSABLE(w))))
#else
#define USABLE(w) (new_[w] > 0 || (IDLE(w) > 0 && !level[w]))
#endif

inline start(w) {       /* M5: the safety of promise 1 is here */
  used[w]++; exempt[w] = 0; wait_[w] = 0; head = 1 - w;
  if :: new_[w] -> new_[w]-- :: else fi;
  assert(RUNNING <= MAX);
  assert(lossy || !(trust[w] && known[w] == epoch && live[CUR(w)]) || UNITS(CUR(w)) >= used[w]) /* Redis counts it */
}

inline give_back(w, m) { n[w] = n[w] - (m); chg[w] = 1; due[w] = 1 }

inline recall(w) {      /* U1 */
  if :: level[w] && IDLE(w) > 0 -> give_back(w, IDLE(w)) :: else fi
}

inline hear(w) {        /* the grants above the last one that it knows */
  if
  :: gl[ms[w]] > gk[w] ->
     n[w] = n[w] + gl[ms[w]] - gk[w]; new_[w] = new_[w] + gl[ms[w]] - gk[w]; gk[w] = gl[ms[w]]
  :: else
  fi
}

inline forget_message(c) {
  mv[c] = 0; ms[c] = 0; mep[c] = 0; msn[c] = 0; mg[c] = 0; mn[c] = 0; mkind[c] = 0; mset[c] = 0; mwant[c] = 0;
  mroom[c] = 0; mcf[c] = 0; mstart[c] = 0
}

inline collect(w, beat) {
  mv[w] = 1; ms[w] = CUR(w); mep[w] = known[w]; msn[w] = 3; mcf[w] = cf[w]; mg[w] = gk[w]; mn[w] = n[w];
  mkind[w] = (needs[w] -> 1 : (beat -> 2 : 0));
  mset[w] = (needs[w] || chg[w]);
  mwant[w] = (wait_[w] && n[w] == used[w]); mroom[w] = (used[w] == 0 && new_[w] == 0);
  due[w] = 0; needs[w] = 0; chg[w] = 0; phase[w] = 1
}

inline delay(w) {       /* the worker gives up on a message, which arrives all the same */
  mv[LATE + w] = mv[w]; ms[LATE + w] = ms[w]; mep[LATE + w] = mep[w]; mg[LATE + w] = mg[w]; mn[LATE + w] = mn[w];
  mkind[LATE + w] = mkind[w]; mset[LATE + w] = mset[w]; mwant[LATE + w] = mwant[w]; mroom[LATE + w] = mroom[w];
  mcf[LATE + w] = mcf[w]; mstart[LATE + w] = mstart[w]; msn[LATE + w] = 2
}

inline no_notices(s) { ng[s] = 0; nrec[s] = 0 }

inline overtaken(w) {   /* a later sync was executed: the delayed one is stale */
  if
  :: mv[LATE + w] == 1 && ms[LATE + w] == ms[w] ->
     msn[LATE + w] = 0
#ifndef NO_SYNC_NUMBER
     ; mg[LATE + w] = 0; mn[LATE + w] = 0; mkind[LATE + w] = 0; mset[LATE + w] = 0; mwant[LATE + w] = 0; mroom[LATE + w] = 0
#endif
  :: else
  fi
}

inline sync_failed(w) {
  needs[w] = 1; due[w] = 1; phase[w] = 0; sub[w] = 0;
  no_notices(2 * w); no_notices(2 * w + 1); forget_message(w)
}

inline renumber(w) {    /* only the order of grants matters: begin at 0 again */
  if
  :: mv[LATE + w] == 0 && phase[w] == 0 && ng[CUR(w)] == 0 && gk[w] == gl[CUR(w)] && live[CUR(w)] && known[w] == epoch NOT_IN_SNAPSHOT -> base[CUR(w)] = UNITS(CUR(w)); gb[CUR(w)] = 0; gl[CUR(w)] = 0; gk[w] = 0
  :: else
  fi
}

inline apply(w) {
  hear(w);
  level[w] = LEVEL(ms[w]); recall(w);
  trust[w] = 1; passed[w] = 0; cf[w] = 1; nrec[ms[w]] = 0;
  reuse[w] = 1;
  if :: differs -> needs[w] = 1; due[w] = 1 :: else fi;
  differs = 0;
  if :: ng[ms[w]] <= gk[w] -> ng[ms[w]] = 0 :: else fi;
#ifdef SNAPSHOT
  z_ss[ms[w]] = 0;      /* what is confirmed now was not in the snapshot */
#endif
  phase[w] = 0; forget_message(w);
  renumber(w)
}

inline holdings(w) {    /* it opens another session, and states what runs */
  n[w] = used[w]; new_[w] = 0; chg[w] = 0;
  mv[w] = 2; mstart[w] = !joined[w]; ms[w] = 2 * w + 1 - cur[w]; mep[w] = known[w]; mn[w] = used[w];
  unheard[w] = 1; phase[w] = 2; reopen[w] = 0
}

inline opened(w) {
  no_notices(2 * w); no_notices(2 * w + 1);
  cur[w] = ms[w] & 1; unheard[w] = 0; joined[w] = 1; known[w] = epoch; trust[w] = 1; passed[w] = 0; cf[w] = 0;
  gk[w] = 0; level[w] = 0; needs[w] = 1; due[w] = 1; sub[w] = 1; cut[w] = 0;
  n[w] = mn[w];         /* what has ended meanwhile is idle, and not reused before the first answer */
#ifdef REUSE_AT_ONCE
  reuse[w] = 1;
#else
  reuse[w] = 0;
#endif
  phase[w] = 0;
  if :: mv[LATE + w] && ms[LATE + w] == ms[w] -> forget_message(LATE + w) :: else fi;
  forget_message(w)
}

inline no_connections() {
  sub[0] = 0; sub[1] = 0;
  no_notices(0); no_notices(1); no_notices(2); no_notices(3);
  if :: phase[0] == 1 -> sync_failed(0) :: else fi;
  if :: phase[1] == 1 -> sync_failed(1) :: else fi
}

proctype Gate(byte w) {
  do
  :: d_step { up[w] && !wait_[w] && joined[w] && tasks > 0 ->
       if :: tasks < 255 -> tasks-- :: else fi;
       wait_[w] = 1;
       if :: !wait_[1 - w] -> head = w :: else fi;
       if :: n[w] == used[w] -> due[w] = 1 :: else fi }
  :: d_step { up[w] && wait_[w] && used[w] == 0 && USABLE(w) -> start(w) }
  :: d_step { up[w] && used[w] ->                       /* M6 */
       used[w]--; exempt[w] = 0;
       if :: phase[w] != 2 && !REUSABLE(w) && n[w] > 0 -> give_back(w, 1) :: else fi;
       if :: wait_[w] && n[w] == used[w] -> due[w] = 1 :: else fi }
  :: d_step { up[w] && used[w] && new_[w] ->            /* granted, and the slot has gone */
       give_back(w, new_[w]); new_[w] = 0 }
  od
}

proctype Link(byte w) {
  do
  :: d_step { up[w] && phase[w] == 0 && (!joined[w] || reopen[w]) -> holdings(w) }
#ifdef INSTANT          /* nothing happens while a sync is under way */
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && !cut[w] ->
       sub[w] = 1;
       if :: due[w] || needs[w] -> collect(w, 0) :: else -> collect(w, 1) fi;
       sync(w);
       if
       :: st == OK -> apply(w)
       :: st == STALE -> needs[w] = 1; due[w] = 1; phase[w] = 0; forget_message(w)
       :: else -> reopen[w] = 1; phase[w] = 0; forget_message(w)
       fi;
       st = 0; me = 0 }
#else
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && (due[w] || needs[w]) -> sub[w] = 1; collect(w, 0) }
#ifndef NO_BEAT
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && !due[w] && !needs[w] -> sub[w] = 1; collect(w, 1) }
#endif
  :: d_step { up[w] && phase[w] == 1 && !cut[w] ->
       sync(w);
       if
       :: st == OK -> overtaken(w); apply(w)
       :: st == STALE -> needs[w] = 1; due[w] = 1; phase[w] = 0; forget_message(w)
       :: else -> reopen[w] = 1; phase[w] = 0; forget_message(w)
       fi;
       st = 0; me = 0 }
#endif
#ifdef DELAYED
#ifdef INSTANT
  :: d_step { FAULT && up[w] && phase[w] == 0 && joined[w] && !reopen[w] && mv[LATE + w] == 0 ->
       if :: due[w] || needs[w] -> collect(w, 0) :: else -> collect(w, 1) fi;
       delay(w); sync_failed(w); SPEND }
#else
  :: d_step { FAULT && up[w] && (phase[w] == 1 || phase[w] == 2) && mv[LATE + w] == 0 -> delay(w); sync_failed(w); SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 1 && !cut[w] && mv[LATE + w] == 0 -> /* executed, not answered, and once more */
       delay(w); sync(w); msn[LATE + w] = 1; sync_failed(w); differs = 0; st = 0; me = 0; SPEND }
#endif
#endif
  :: d_step { up[w] && phase[w] == 2 && !cut[w] -> open_(w); opened(w); st = 0; me = 0 }
  :: d_step { up[w] && phase[w] == 0 && IDLE(w) > 0 && (!wait_[w] || !REUSABLE(w)) -> give_back(w, IDLE(w)) }  /* idle for long */
  :: d_step { up[w] && phase[w] == 0 && new_[w] && !wait_[w] -> give_back(w, new_[w]); new_[w] = 0 }
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && nrec[CUR(w)] -> nrec[CUR(w)] = 0; level[w] = 1; recall(w) }
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && sub[w] && ng[CUR(w)] ->
       if
       :: ng[CUR(w)] == gk[w] + 1 -> n[w]++; new_[w]++; gk[w]++
       :: ng[CUR(w)] > gk[w] + 1 -> due[w] = 1
       :: else
       fi;
       ng[CUR(w)] = 0; renumber(w) }
#ifdef MESSAGES
  :: d_step { FAULT && up[w] && (phase[w] == 1 || phase[w] == 2) && mv[w] -> sync_failed(w); SPEND }  /* not executed */
  :: d_step { FAULT && up[w] && phase[w] == 1 && !cut[w] ->  /* executed, the answer is lost */
       sync(w);
       if :: st == OK -> overtaken(w) :: else fi;
       sync_failed(w); differs = 0; st = 0; me = 0; SPEND }
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
       end_session(s); finish(); me = 0 }
  od
}

#define OLD_TRUST(w) (up[w] && joined[w] && trust[w] && known[w] != epoch)
#define REJOINS(w) (OLD_TRUST(w) && !cut[w])
inline opens_up() { shut = 0; me = NOBODY; finish(); me = 0 }
proctype Clock() {
  do
  :: d_step { epoch && same_run && shut == INTERVAL && !REJOINS(0) && !REJOINS(1) -> opens_up() }
  :: d_step { epoch && same_run && shut == TIMEOUT && !OLD_TRUST(0) && !OLD_TRUST(1) -> opens_up() }
#ifdef LOSS
  :: d_step { epoch && !grown && !OLD_TRUST(0) && !OLD_TRUST(1) -> grown = 1 }
#endif
  od
}

proctype Trouble() {
  byte w;
  do
#ifdef DELAYED
  :: atomic { if :: mv[LATE + 0] -> w = 0 :: mv[LATE + 1] -> w = 1 fi;
       d_step { if :: mv[LATE + w] == 1 -> sync(LATE + w) :: else -> open_(LATE + w) fi;
         forget_message(LATE + w); differs = 0; st = 0; me = 0; w = 0 } }
#endif
#ifdef CRASH
  :: atomic { if :: !crashed && up[0] && joined[0] -> w = 0 :: !crashed && up[1] && joined[1] -> w = 1 fi;
       d_step { crashed = 1; up[w] = 0; used[w] = 0; n[w] = 0; new_[w] = 0; wait_[w] = 0; gk[w] = 0; level[w] = 0; chg[w] = 0;
         unheard[w] = 0; passed[w] = 0; exempt[w] = 0; trust[w] = 0; sub[w] = 0; joined[w] = 0; known[w] = 0; reopen[w] = 0;
         phase[w] = 0; needs[w] = 0; due[w] = 0; cf[w] = 0; cut[w] = 0; reuse[w] = 0;
         no_notices(2 * w); no_notices(2 * w + 1); forget_message(w); w = 0 } }
  :: d_step { !up[0] && mv[LATE] == 0 && !live[1 - cur[0]] -> up[0] = 1 }
  :: d_step { !up[1] && mv[LATE + 1] == 0 && !live[2 + 1 - cur[1]] -> up[1] = 1 }
#endif
#ifdef FLUSH
  :: d_step { lost_data < LOSSES && epoch && !exempt[0] && !exempt[1] -> lost_data++; no_data() }
#endif
#ifdef RESTART
  :: d_step { lost_data < LOSSES && epoch && !exempt[0] && !exempt[1] -> lost_data++; no_data(); no_connections() }
#endif
#ifdef SNAPSHOT
  :: d_step { !snapped && epoch ->
       snapped = 1; has_snap = 1; z_epoch = epoch; z_shut = shut; z_fresh = fresh; z_grown = grown;
       i = 0;
       do :: i < NS -> z_live[i] = live[i]; z_seen[i] = seen[i]; z_want[i] = want[i]; z_told[i] = told[i]; z_ss[i] = ss[i];
             z_base[i] = base[i]; z_gb[i] = gb[i]; z_gl[i] = gl[i]; z_room[i] = room[i]; i++ :: else -> break od;
       i = 0 }
  :: atomic { has_snap ->
       d_step {
         no_data();
         epoch = z_epoch; shut = z_shut; fresh = z_fresh; grown = z_grown;
         i = 0;
         do :: i < NS -> live[i] = z_live[i]; seen[i] = z_seen[i]; want[i] = z_want[i]; told[i] = z_told[i]; ss[i] = z_ss[i];
               base[i] = z_base[i]; gb[i] = z_gb[i]; gl[i] = z_gl[i]; room[i] = z_room[i];
               z_live[i] = 0; z_seen[i] = 0; z_want[i] = 0; z_told[i] = 0; z_ss[i] = 0; z_base[i] = 0; z_gb[i] = 0; z_gl[i] = 0;
               z_room[i] = 0; i++ :: else -> break od;
         i = 0; has_snap = 0; z_epoch = 0; z_shut = 0; z_fresh = 0; z_grown = 0;
#ifndef SAME_RUN
         same_run = 0; no_connections()
#endif
       };
#ifdef CUT              /* one whose session is in the table may be cut off until its lease has ended */
       if :: up[0] && joined[0] && live[cur[0]] && trust[0] -> cut[0] = 1 :: up[1] && joined[1] && live[2 + cur[1]] && trust[1] -> cut[1] = 1 :: true fi
#endif
     }
#endif
#ifdef CUT
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
