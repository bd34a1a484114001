/*
 * Sessions, leases, numbered syncs and grants, notices, epochs: two workers, one slot each, under one limit of max 1.
 *
 * Each inline is named after the Lua function (core.lua, open.lua, sync.lua) or the method (ledger.py, link.py) that it
 * stands for. A script is one step, as in Redis. Tasks come for ever; numbers (of permits, grants, syncs) are
 * given again once nothing refers to them any more, so the state space is finite without a bound on the run.
 *
 * What may go wrong is chosen by macros, see tools/model.py; NO_... takes a guard out.
 * What is left out, and the assumptions on time: docs/explanation/protocol-model.md.
 */
#define NW 2            /* workers */
#define NS 4            /* session ids: two for each worker, used in turn */
#ifndef MAX
#define MAX 1           /* of the limit */
#endif
#ifndef K
#define K 3             /* permit numbers for each worker */
#endif
#define LATE NW         /* messages LATE + w: what arrives after the worker has given up on it */
#define OWNER(s) ((s) >> 1)
#define BIT(i) (1 << (i))
#define PC(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1))
#define HELD (PC(hold[0]) + PC(hold[1]) + PC(hold[2]) + PC(hold[3]))
#define INTERVAL 1      /* how long nothing is granted: until all who are not cut off have rejoined ... */
#define TIMEOUT 2       /* ... until every lease of another epoch has ended */
#define STAR 9          /* CONTENDED: more than one session waits */
#ifndef FAULTS
#define FAULTS 255      /* 255: without bound */
#endif
#define FAULT (faults > 0)
#define SPEND if :: faults < 255 -> faults-- :: else fi

/* ---- Redis ---- */
byte epoch = 0;         /* meta.epoch, in order of their time; 0: no data */
byte epochs = 0;
bit same_run = 1;       /* meta.run is the server's run_id */
bit young = 0;          /* the server has just started */
bit grown = 0;          /* born + timeout has passed */
byte shut = 0;
bit fresh = 0;          /* the limit is in FRESH */
bit live[NS], seen[NS]; /* in SESSIONS; has stated by a version that is not older than FRESH */
byte ss[NS];            /* number of the last sync: 0 none, 1 some (see NUMBERS) */
byte gr[NS], room[NS];
byte hold[NS], line[NS];/* HOLDERS, WAITERS: sets of numbers */
byte g[NS * K];         /* grant number of a holder */
byte flag = 0;          /* CONTENDED: 0, session + 1 or STAR */
bit lossy = 0;          /* ghost: data was lost since the epoch began */

#ifdef SNAPSHOT
bit has_snap = 0, snapped = 0, z_fresh, z_grown;
byte z_epoch, z_shut, z_flag;
bit z_live[NS], z_seen[NS];
byte z_ss[NS], z_gr[NS], z_room[NS], z_hold[NS], z_line[NS], z_g[NS * K];
#endif

/* ---- Notices on their way ---- */
byte ng[NS * K];        /* grant number told for a permit, 0: none */
bit nrec[NS];           /* recall */

/* ---- Workers: ledger.py, link.py ---- */
bit up[NW] = 1, joined[NW], cur[NW], trust[NW], contended[NW], needs[NW], due[NW], sub[NW], cf[NW], cut[NW];
bit reopen[NW], unheard[NW], reuse[NW],
  passed[NW];           /* ghost: the lease of cur has ended on the lease clock */   /* unheard: the id after cur may be open in Redis */
byte known[NW], wait_[NW], asked[NW], unasked[NW], spare[NW], new_[NW], runs[NW], ended_[NW], granted[NW], broom[NW];
byte phase[NW];         /* 0: nothing under way, 1: a sync, 2: an open */
bit exempt[NW];         /* ghost: what runs has outlived its lease (the documented exception) */
bit head = 0;           /* the worker whose waiter reached its gate first */
byte faults = FAULTS;
bit crashed = 0, lost_data = 0;

/* ---- Messages ---- */
byte mv[2 * NW], ms[2 * NW], mep[2 * NW], msn[2 * NW], mgr[2 * NW], mroom[2 * NW];
byte mend[2 * NW], mask[2 * NW], mheld[2 * NW];
bit mcf[2 * NW], mfull[2 * NW], mstart[2 * NW];

hidden byte i, j, k, x, me, st, was;
#define OK 1
#define CLOSED 2
#define STALE 3
#define NOBODY 7

#define TOLD(s) (ng[(s) * K] || ng[(s) * K + 1] || ng[(s) * K + K - 1] || ng[(s) * K + K - 2])
#ifdef NUMBERS          /* numbers of grants are those of the snapshot, while there is one */
#define NOT_IN_SNAPSHOT && !has_snap
#else
#define NOT_IN_SNAPSHOT
#endif

/* NUMBERS of syncs: a new one is 3; one that was delayed and not executed 2; Redis remembers 1 when it has executed any
   (a delayed one that was overtaken, or was executed before, becomes 0 or 1); 0: none yet. */

#define RUNNING ((runs[0] != 0 && !exempt[0]) + (runs[1] != 0 && !exempt[1]))
#define HAS_PLACE (shut == 0 && !fresh && HELD < MAX)
#define LINE_EMPTY (line[0] == 0 && line[1] == 0 && line[2] == 0 && line[3] == 0)
#define IN_LINE_OF_OTHERS(s) ((s != 0 && line[0]) || (s != 1 && line[1]) || (s != 2 && line[2]) || (s != 3 && line[3]))
#define CONTENTION(s) (HELD > MAX || (flag != 0 && flag != s + 1 && IN_LINE_OF_OTHERS(s)))

/* ======== core.lua ======== */

inline end_session(s) {
  live[s] = 0; seen[s] = 0; ss[s] = 0; gr[s] = 0; room[s] = 0; hold[s] = 0; line[s] = 0;
  j = 0;
  do :: j < K -> g[s * K + j] = 0; j++ :: else -> break od;
  if :: LINE_EMPTY -> flag = 0 :: else fi
}

inline grant(s, n) {    /* n: the permit's index */
  gr[s]++; room[s]--;
  line[s] = line[s] & ~BIT(n);
  if :: LINE_EMPTY -> flag = 0 :: else fi;
  hold[s] = hold[s] | BIT(n);
  g[s * K + n] = gr[s];
  if
#ifndef NO_NOTICES
  :: s != me && sub[OWNER(s)] && cur[OWNER(s)] == (s & 1) && !unheard[OWNER(s)] -> ng[s * K + n] = gr[s]; nrec[s] = 1
#endif
  :: else
  fi
}

inline serve_session(s) {
  k = 0;
  do
  :: k < K ->
     if :: (line[s] & BIT(k)) && room[s] > 0 && HAS_PLACE -> grant(s, k) :: else fi;
     k++
  :: else -> break
  od
}

inline serve_all() {    /* in order of arrival at the gates */
  if
  :: head == 0 -> serve_session(0); serve_session(1); serve_session(2); serve_session(3)
  :: else -> serve_session(2); serve_session(3); serve_session(0); serve_session(1)
  fi
}

inline contend(s) {
  if
  :: flag == STAR || flag == s + 1
  :: else ->
     was = flag;
     flag = (flag != 0 -> STAR : s + 1);
     j = 0;
     do
     :: j < NS ->
#if !defined(NO_NOTICES) && !defined(NO_CONTEND)
        if :: hold[j] && j != me && (was || j != s) && sub[OWNER(j)] && cur[OWNER(j)] == (j & 1) -> nrec[j] = 1 :: else fi;
#endif
        j++
     :: else -> break
     od
  fi
}

inline settle() {
  if
  :: fresh && (!live[0] || seen[0]) && (!live[1] || seen[1]) && (!live[2] || seen[2]) && (!live[3] || seen[3]) -> fresh = 0
  :: else
  fi
}

inline finish() {       /* a recall is told only if there is still reason when the script ends */
  settle(); serve_all();
  j = 0;
  do :: j < NS -> if :: nrec[j] && !CONTENTION(j) -> nrec[j] = 0 :: else fi; j++ :: else -> break od
}

inline begin_epoch(h) {
  assert(lossy);        /* never a new epoch without need: it holds everybody up */
  epochs++; epoch = epochs;
  same_run = 1; grown = 0; lossy = 0;
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

/* ======== open.lua ======== */

#define LIVED(c) (mep[c] != 0)
#define OTHERS_LISTEN (sub[0] || sub[1])
inline open_(c) {
  begin();
  me = ms[c];
  was = (LIVED(c) && mep[c] != epoch);                      /* lost */
  x = (LIVED(c) && !live[me] && !live[me ^ 1]);             /* lapsed: none of the ids that it replaces is here */
  if
  :: epoch == 0 ->
     lossy = 1;
#ifdef NO_HOLD          /* a newcomer is granted at once where there is no data */
     begin_epoch(0);
#else
#ifdef NO_LISTENERS     /* nobody looks who listens, nor who has lived */
     begin_epoch(INTERVAL);
#else
#ifdef OLD_SERVER       /* no hold for a newcomer where the server has been up for long */
     begin_epoch(((LIVED(c) || OTHERS_LISTEN) -> TIMEOUT : (young -> INTERVAL : 0)));
#else
     begin_epoch(((LIVED(c) || OTHERS_LISTEN) -> TIMEOUT : INTERVAL));
#endif
#endif
#endif
     fresh = 0          /* no limits yet: this session brings them */
  :: epoch != 0 && x && was ->
#ifndef NO_LATER_EPOCH
     if :: mep[c] > epoch -> begin_epoch(TIMEOUT) :: else fi;
#endif
#ifndef NO_STALE_SHUT
     if :: !grown && shut < TIMEOUT -> shut = TIMEOUT :: else fi
#else
     skip
#endif
  :: epoch != 0 && x && !was && !passed[OWNER(me)] ->
#ifndef NO_STANDING_LEASE
     begin_epoch(TIMEOUT); was = 1
#else
     skip
#endif
  :: else
  fi;
  if
#ifdef NO_REPLACE
  :: mstart[c] || live[me ^ 1]
#else
  :: mstart[c]
#endif
  :: else -> end_session((me ^ 1))
  fi;
  end_session(me);
  live[me] = 1; gr[me] = 1;
#ifndef NO_RESTATING
  hold[me] = mheld[c];
  j = 0;
  do :: j < K -> if :: (mheld[c] & BIT(j)) -> g[me * K + j] = 1 :: else fi; j++ :: else -> break od;
#endif
  seen[me] = (LIVED(c) && !was);
  was = 0; x = 0;
  finish();
  st = OK
}

/* ======== sync.lua ======== */

inline remove_ids(s, m) {
  hold[s] = hold[s] & ~(m);
  line[s] = line[s] & ~(m);
  j = 0;
  do :: j < K -> if :: ((m) & BIT(j)) -> g[s * K + j] = 0 :: else fi; j++ :: else -> break od;
  if :: LINE_EMPTY -> flag = 0 :: else fi
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

inline sync(c) {
  me = ms[c];
  if
  :: epoch == 0 -> st = CLOSED
  :: else ->
     begin();
#ifndef NO_CONFIRMED
     if
     :: epoch == mep[c] && live[me] && ss[me] < mcf[c] -> begin_epoch(INTERVAL)
     :: else
     fi;
#endif
     if
     :: !SAME_EPOCH(c) || !live[me] -> st = CLOSED
     :: SAME_EPOCH(c) && live[me] && OLD_NUMBER(c) -> st = STALE
     :: else ->
        st = OK;
        ss[me] = 1; seen[me] = 1;
        remove_ids(me, mend[c]);
        if
        :: mfull[c] ->
           x = (hold[me] | line[me]) & ~(mheld[c] | mask[c]);
#ifndef NO_GRANT_NUMBER /* only what it could know of is removed: numbered up to granted */
           j = 0;
           do :: j < K -> if :: g[me * K + j] > mgr[c] -> x = x & ~BIT(j) :: else fi; j++ :: else -> break od;
#endif
           remove_ids(me, x);
           x = 0
        :: else
        fi;
        line[me] = line[me] & ~mheld[c];
        j = 0;
        do
        :: j < K ->
           if :: (mheld[c] & BIT(j)) && !(hold[me] & BIT(j)) -> g[me * K + j] = mgr[c] :: else fi;
           j++
        :: else -> break
        od;
        hold[me] = hold[me] | mheld[c];
        x = mroom[c];
#ifndef NO_ROOM_LESS_GRANTS
        j = 0;
        do :: j < K -> if :: g[me * K + j] > mgr[c] && x > 0 -> x-- :: else fi; j++ :: else -> break od;
#endif
        room[me] = x; x = 0;
        settle(); serve_all();
        j = 0;
        do
        :: j < K ->
           if
           :: (mask[c] & BIT(j)) && !((hold[me] | line[me]) & BIT(j)) ->
              line[me] = line[me] | BIT(j);
              if :: HAS_PLACE && room[me] > 0 -> grant(me, j) :: else -> contend(me); break fi /* one ask at most */
           :: else
           fi;
           j++
        :: else -> break
        od;
        finish()
     fi
  fi
}

/* ======== ledger.py ======== */

#define REUSABLE(w) (trust[w] && reuse[w] && !contended[w])
#ifndef NO_LEASE_CHECK
#define USABLE(w) (trust[w] && (new_[w] || (spare[w] && REUSABLE(w))))
#else
#define USABLE(w) (new_[w] || (spare[w] && !contended[w]))
#endif
#define ROOM(w) ((runs[w] == 0 && new_[w] == 0) -> 1 : 0)
#define USED(w) (asked[w] | unasked[w] | spare[w] | runs[w] | ended_[w] | hold[2 * w] | hold[2 * w + 1] | line[2 * w] | line[2 * w + 1] \
  | mend[w] | mask[w] | mheld[w] | mend[LATE + w] | mask[LATE + w] | mheld[LATE + w])

inline ask(w) {         /* _ask_locked */
  if
  :: wait_[w] > PC(spare[w]) && asked[w] == 0 ->
     x = USED(w);
#ifdef SNAPSHOT
     if :: has_snap -> x = x | z_hold[2 * w] | z_hold[2 * w + 1] | z_line[2 * w] | z_line[2 * w + 1] :: else fi;
#endif
     j = 0;
     do
     :: j < K -> if :: (x & BIT(j)) == 0 && ng[2 * w * K + j] == 0 && ng[(2 * w + 1) * K + j] == 0 -> break :: else fi; j++
     :: else -> break
     od;
     if :: j < K -> asked[w] = BIT(j); unasked[w] = BIT(j); due[w] = 1 :: else fi;
     x = 0
  :: wait_[w] <= PC(spare[w]) && asked[w] -> withdraw(w)
  :: else
  fi
}

inline withdraw(w) {    /* _withdraw_locked */
  if :: unasked[w] == 0 -> ended_[w] = ended_[w] | asked[w]; due[w] = 1 :: else fi;
  unasked[w] = 0; asked[w] = 0
}

inline recall(w) {      /* _recall_locked */
  if
  :: contended[w] && (spare[w] & ~new_[w]) ->
     ended_[w] = ended_[w] | (spare[w] & ~new_[w]); spare[w] = new_[w]; due[w] = 1
  :: else
  fi
}

inline granted_(w, n, number) { /* _grant_locked, one grant */
  if
  :: number <= granted[w]
  :: else ->
     granted[w] = number;
     if :: broom[w] -> broom[w]-- :: else fi;
     if
     :: asked[w] == BIT(n) -> asked[w] = 0; unasked[w] = 0; spare[w] = spare[w] | BIT(n); new_[w] = new_[w] | BIT(n)
     :: asked[w] != BIT(n) && (ended_[w] & BIT(n)) && asked[w] -> /* its withdrawal was not told yet: it answers the other */
        ended_[w] = ended_[w] & ~BIT(n);
        withdraw(w);
        spare[w] = spare[w] | BIT(n); new_[w] = new_[w] | BIT(n)
     :: else -> ended_[w] = ended_[w] | BIT(n); due[w] = 1
     fi
  fi
}

inline give(w) {        /* _give_locked: the safety of promise 1 is here */
  if
  :: new_[w] -> j = 0; do :: (new_[w] & BIT(j)) -> break :: else -> j++ od
  :: else -> j = 0; do :: (spare[w] & BIT(j)) -> break :: else -> j++ od
  fi;
  runs[w] = BIT(j); exempt[w] = 0;
  spare[w] = spare[w] & ~BIT(j); new_[w] = new_[w] & ~BIT(j);
  assert(RUNNING <= MAX);
  assert(!(trust[w] && known[w] == epoch && live[2 * w + cur[w]]) || (hold[2 * w + cur[w]] & runs[w])); /* Redis counts it */
  if :: wait_[w] -> wait_[w]--; head = 1 - w :: else fi;
  ask(w)
}

inline collect(w, beat) {
  mv[w] = 1; ms[w] = 2 * w + cur[w]; mep[w] = known[w]; msn[w] = 3; mcf[w] = cf[w]; mgr[w] = granted[w];
  mfull[w] = (beat || needs[w]);
  broom[w] = ROOM(w); mroom[w] = broom[w];
  mend[w] = (mfull[w] -> 0 : ended_[w]);
  mask[w] = (mfull[w] -> ((wait_[w] > PC(spare[w])) -> asked[w] : 0) : unasked[w]);
  mheld[w] = (mfull[w] -> (runs[w] | spare[w]) : 0);
  ended_[w] = 0; unasked[w] = 0; due[w] = 0; needs[w] = 0;
  phase[w] = 1
}

inline forget_message(c) {
  mv[c] = 0; ms[c] = 0; mep[c] = 0; msn[c] = 0; mcf[c] = 0; mgr[c] = 0; mroom[c] = 0; mend[c] = 0; mask[c] = 0;
  mheld[c] = 0; mfull[c] = 0; mstart[c] = 0
}

inline delay(w) {       /* the worker gives up on a message, which arrives all the same */
  mv[LATE + w] = mv[w]; ms[LATE + w] = ms[w]; mep[LATE + w] = mep[w]; mcf[LATE + w] = mcf[w]; mgr[LATE + w] = mgr[w];
  mroom[LATE + w] = mroom[w]; mend[LATE + w] = mend[w]; mask[LATE + w] = mask[w]; mheld[LATE + w] = mheld[w];
  mfull[LATE + w] = mfull[w]; mstart[LATE + w] = mstart[w];
  msn[LATE + w] = 2
}

inline no_notices(s) {
  j = 0;
  do :: j < K -> ng[s * K + j] = 0; j++ :: else -> break od;
  nrec[s] = 0
}

inline overtaken(w) {   /* a later sync was executed: the delayed one is stale */
  if
  :: mv[LATE + w] == 1 && ms[LATE + w] == ms[w] ->
     msn[LATE + w] = 0
#ifndef NO_SYNC_NUMBER
     ; mgr[LATE + w] = 0; mroom[LATE + w] = 0; mend[LATE + w] = 0; mask[LATE + w] = 0; mheld[LATE + w] = 0; mfull[LATE + w] = 0
#endif
  :: else
  fi
}

inline untold(w) {
  needs[w] = 1; due[w] = 1; phase[w] = 0;
  sub[w] = 0;           /* _lost: the subscription goes too */
  no_notices(2 * w); no_notices(2 * w + 1);
  forget_message(w)
}

inline apply(w) {       /* with the grants above granted, in their order */
  x = ms[w];
  k = granted[w] + 1;
  do
  :: k <= gr[x] ->
     i = 0;
     do :: i < K -> if :: (hold[x] & BIT(i)) && g[x * K + i] == k -> granted_(w, i, k) :: else fi; i++ :: else -> break od;
     k++
  :: else -> break
  od;
  contended[w] = CONTENTION(x);
  recall(w);
  trust[w] = 1; reuse[w] = 1; passed[w] = 0; cf[w] = 1;
  nrec[x] = 0;
  j = 0;                /* what is no news any more is not told */
  do :: j < K -> if :: ng[x * K + j] <= granted[w] || gr[x] > 4 -> ng[x * K + j] = 0 :: else fi; j++ :: else -> break od;
  if
  :: (mv[LATE + w] == 0 || msn[LATE + w] == 0) && !TOLD(x) NOT_IN_SNAPSHOT -> /* only the order of grant numbers matters: begin at 1 again */
     i = 0;
     do :: i < K -> if :: g[x * K + i] -> g[x * K + i] = 1 :: else fi; i++ :: else -> break od;
     gr[x] = 1; granted[w] = 1
  :: else
  fi;
#ifdef SNAPSHOT
  z_ss[x] = 0;          /* what is confirmed now was not in the snapshot */
#ifdef NUMBERS
  if :: gr[x] > 3 -> has_snap = 0 :: else fi;
#endif
#endif
  x = 0;
  phase[w] = 0;
  forget_message(w)
}

inline holdings(w) {    /* link._open */
  spare[w] = 0; new_[w] = 0; asked[w] = 0; unasked[w] = 0; ended_[w] = 0;
  mv[w] = 2; mstart[w] = !joined[w]; ms[w] = 2 * w + 1 - cur[w]; mep[w] = known[w];
  mheld[w] = runs[w];
  unheard[w] = 1;
  phase[w] = 2; reopen[w] = 0
}

inline opened(w) {
  no_notices(2 * w); no_notices(2 * w + 1);
  cur[w] = ms[w] & 1; unheard[w] = 0; joined[w] = 1; known[w] = epoch; trust[w] = 1; passed[w] = 0; cf[w] = 0;
  granted[w] = 1; contended[w] = 0; needs[w] = 1; due[w] = 1; sub[w] = 1; broom[w] = 0; cut[w] = 0;
#ifdef REUSE_AT_ONCE    /* ledger.opened() before the model: a restated permit passes on before it is known to be over the max */
  reuse[w] = 1;
#else
  reuse[w] = 0;
#endif
  phase[w] = 0;
  if :: mv[LATE + w] && ms[LATE + w] == ms[w] -> forget_message(LATE + w) :: else fi;
  forget_message(w);
  ask(w)
}

/* ======== the processes ======== */

/* gate.py: tasks come, start, end */
proctype Gate(byte w) {
  do
  :: d_step { up[w] && wait_[w] == 0 && joined[w] ->         /* admit */
       wait_[w] = 1;
       if :: wait_[1 - w] == 0 -> head = w :: else fi;
       if :: runs[w] == 0 && USABLE(w) -> give(w) :: else -> ask(w) fi
     }
  :: d_step { up[w] && wait_[w] && runs[w] == 0 && USABLE(w) -> give(w) }   /* next */
  :: d_step { runs[w] && up[w] ->                             /* ended */
       if
       :: REUSABLE(w) -> spare[w] = spare[w] | runs[w]
       :: else -> ended_[w] = ended_[w] | runs[w]; due[w] = 1
       fi;
       runs[w] = 0; exempt[w] = 0;
       if
       :: wait_[w] && !(spare[w] & ~new_[w]) -> ask(w); if :: asked[w] && ROOM(w) > broom[w] -> due[w] = 1 :: else fi
       :: else
       fi
     }
  :: d_step { up[w] && runs[w] && new_[w] ->                  /* _return_new_locked: no slot for it */
       ended_[w] = ended_[w] | new_[w]; spare[w] = spare[w] & ~new_[w]; new_[w] = 0; due[w] = 1;
       ask(w)
     }
  :: d_step { up[w] && wait_[w] && asked[w] == 0 && spare[w] == 0 && joined[w] && (USED(w) != BIT(K) - 1) && phase[w] != 2 && !reopen[w] -> ask(w) }
  od
}

/* link.py: the thread */
proctype Link(byte w) {
  byte n;
  do
  :: d_step { up[w] && phase[w] == 0 && !joined[w] -> holdings(w) }
  :: d_step { up[w] && phase[w] == 0 && reopen[w] -> holdings(w) }
#ifndef INSTANT
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && (due[w] || needs[w]) -> sub[w] = 1; collect(w, 0) }
#ifndef NO_BEAT
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && !due[w] && !needs[w] -> sub[w] = 1; collect(w, 1) }
#endif
#endif
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
       st = 0; me = 0; was = 0
     }
#else
  :: d_step { up[w] && phase[w] == 1 && !cut[w] ->            /* executed, and answered */
       sync(w);
       if
       :: st == OK -> overtaken(w); apply(w)
       :: st == STALE -> needs[w] = 1; due[w] = 1; phase[w] = 0; forget_message(w)
       :: else -> reopen[w] = 1; phase[w] = 0; forget_message(w)
       fi;
       st = 0; me = 0; was = 0
     }
#endif
  :: d_step { up[w] && phase[w] == 2 && !cut[w] -> open_(w); opened(w); st = 0; me = 0; x = 0 }
  :: d_step { up[w] && spare[w] && (wait_[w] == 0 || !USABLE(w)) && phase[w] == 0 ->   /* retire_idle */
       ended_[w] = ended_[w] | spare[w]; spare[w] = 0; new_[w] = 0; due[w] = 1;
       ask(w)
     }
  /* notices */
  :: d_step { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && nrec[2 * w + cur[w]] ->
       nrec[2 * w + cur[w]] = 0; contended[w] = 1; recall(w)
     }
  :: atomic { up[w] && phase[w] == 0 && joined[w] && !reopen[w] && sub[w] && TOLD(2 * w + cur[w]) ->
       if
       :: ng[(2 * w + cur[w]) * K + 0] -> n = 0
       :: ng[(2 * w + cur[w]) * K + 1] -> n = 1
#if K > 2
       :: ng[(2 * w + cur[w]) * K + 2] -> n = 2
#endif
#if K > 3
       :: ng[(2 * w + cur[w]) * K + 3] -> n = 3
#endif
       fi;
       d_step {
         if
         :: ng[(2 * w + cur[w]) * K + n] > granted[w] + 1 -> due[w] = 1
         :: else -> granted_(w, n, ng[(2 * w + cur[w]) * K + n])
         fi
       };
       if
       :: ng[(2 * w + cur[w]) * K + n] = 0
#ifdef MESSAGES
       :: FAULT -> SPEND       /* it comes once more */
#endif
       fi;
       n = 0
     }
#ifdef MESSAGES
  :: d_step { FAULT && up[w] && (phase[w] == 1 || phase[w] == 2) && mv[w] -> /* not executed */
       untold(w); SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 1 && !cut[w] ->  /* executed, the answer is lost */
       sync(w);
       if :: st == OK -> overtaken(w) :: else fi;
       untold(w); st = 0; me = 0; was = 0; SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 2 && !cut[w] -> open_(w); untold(w); st = 0; me = 0; x = 0; SPEND }
  :: d_step { FAULT && up[w] && sub[w] && (nrec[2 * w + cur[w]] || TOLD(2 * w + cur[w])) ->
       no_notices(2 * w + cur[w]); SPEND }
#endif
#ifdef DELAYED
  :: d_step { FAULT && up[w] && phase[w] == 1 && mv[LATE + w] == 0 -> delay(w); untold(w); SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 2 && mv[LATE + w] == 0 -> delay(w); untold(w); SPEND }
  :: d_step { FAULT && up[w] && phase[w] == 1 && !cut[w] && mv[LATE + w] == 0 -> /* executed, not answered, and executed again */
       delay(w); sync(w);
       msn[LATE + w] = 1;
       untold(w); st = 0; me = 0; was = 0; SPEND }
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
       if :: up[OWNER(s)] && runs[OWNER(s)] && !trust[OWNER(s)] -> exempt[OWNER(s)] = 1 :: else fi;
       if :: cur[OWNER(s)] == (s & 1) -> passed[OWNER(s)] = 1 :: else fi;
       end_session(s); finish(); me = 0
     }
  od
}

#define OLD_TRUST(w) (up[w] && joined[w] && trust[w] && known[w] != epoch)
proctype Clock() {
  do
  :: d_step { epoch && same_run && shut == INTERVAL && !(OLD_TRUST(0) && !cut[0]) && !(OLD_TRUST(1) && !cut[1]) ->
       shut = 0; me = NOBODY; finish(); me = 0; young = 0 }
  :: d_step { epoch && same_run && shut == TIMEOUT && !OLD_TRUST(0) && !OLD_TRUST(1) -> shut = 0; me = NOBODY; finish(); me = 0; young = 0 }
#ifdef LOSS
  :: d_step { epoch && !grown && !OLD_TRUST(0) && !OLD_TRUST(1) -> grown = 1; young = 0 }
#endif
  od
}

inline no_data() {
  epoch = 0; shut = 0; fresh = 0; grown = 0; flag = 0; same_run = 1; lossy = 1;
  end_session(0); end_session(1); end_session(2); end_session(3)
}

inline no_connections() {
  i = 0;
  do :: i < NW -> sub[i] = 0; no_notices(2 * i); no_notices(2 * i + 1); i++ :: else -> break od;
  if :: phase[0] == 1 -> untold(0) :: else fi;
  if :: phase[1] == 1 -> untold(1) :: else fi;
  i = 0
}

proctype Trouble() {
  byte w;
  do
#ifdef DELAYED
  :: atomic { if :: mv[LATE + 0] -> w = 0 :: mv[LATE + 1] -> w = 1 fi;
       d_step {
         if
         :: mv[LATE + w] == 1 -> sync(LATE + w)
         :: else -> open_(LATE + w)
         fi;
         forget_message(LATE + w); st = 0; me = 0; was = 0; x = 0; w = 0
       }
     }
#endif
#ifdef CRASH
  :: atomic { if :: !crashed && up[0] && joined[0] -> w = 0 :: !crashed && up[1] && joined[1] -> w = 1 fi;
       d_step {
         crashed = 1;
         up[w] = 0; runs[w] = 0; unheard[w] = 0; passed[w] = 0; exempt[w] = 0; wait_[w] = 0; trust[w] = 0; sub[w] = 0; joined[w] = 0; known[w] = 0; reopen[w] = 0;
         asked[w] = 0; unasked[w] = 0; spare[w] = 0; new_[w] = 0; ended_[w] = 0; phase[w] = 0; granted[w] = 0; contended[w] = 0;
         needs[w] = 0; due[w] = 0; cf[w] = 0; broom[w] = 0; cut[w] = 0; reuse[w] = 0;
         no_notices(2 * w); no_notices(2 * w + 1); forget_message(w);
         w = 0
       }
     }
  :: d_step { !up[0] && mv[LATE] == 0 && !live[1 - cur[0]] -> up[0] = 1 }
  :: d_step { !up[1] && mv[LATE + 1] == 0 && !live[2 + 1 - cur[1]] -> up[1] = 1 }
#endif
#ifdef FLUSH
  :: d_step { !lost_data && epoch -> lost_data = 1; no_data() }
#endif
#ifdef RESTART
  :: d_step { !lost_data && epoch -> lost_data = 1; no_data(); no_connections(); young = 1 }
#endif
#ifdef REPOINT          /* to an empty server that has been up for long */
  :: d_step { !lost_data && epoch -> lost_data = 1; no_data(); no_connections(); young = 0 }
#endif
#ifdef SNAPSHOT
  :: d_step { !snapped && epoch ->
       snapped = 1; has_snap = 1;
       z_epoch = epoch; z_shut = shut; z_fresh = fresh; z_grown = grown; z_flag = flag;
       i = 0;
       do :: i < NS -> z_live[i] = live[i]; z_seen[i] = seen[i]; z_ss[i] = ss[i]; z_gr[i] = gr[i]; z_room[i] = room[i];
             z_hold[i] = hold[i]; z_line[i] = line[i]; i++ :: else -> break od;
       i = 0;
       do :: i < NS * K -> z_g[i] = g[i]; i++ :: else -> break od;
       i = 0
     }
  :: atomic { has_snap ->
       d_step {
         no_data();
         epoch = z_epoch; shut = z_shut; fresh = z_fresh; grown = z_grown; flag = z_flag;
         i = 0;
         do :: i < NS -> live[i] = z_live[i]; seen[i] = z_seen[i]; ss[i] = z_ss[i]; gr[i] = z_gr[i]; room[i] = z_room[i];
               hold[i] = z_hold[i]; line[i] = z_line[i]; z_live[i] = 0; z_seen[i] = 0; z_ss[i] = 0; z_gr[i] = 0; z_room[i] = 0;
               z_hold[i] = 0; z_line[i] = 0; i++ :: else -> break od;
         i = 0;
         do :: i < NS * K -> g[i] = z_g[i]; z_g[i] = 0; i++ :: else -> break od;
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
ltl served { [] (wait_[0] -> <> (wait_[0] == 0)) }
#endif
