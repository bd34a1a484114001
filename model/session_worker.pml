/* Part of session.pml: what worker/ledger and worker/session do, one method after the other. */

/* ======== worker/ledger ======== */

#define REUSABLE(w) (trust[w] && reuse[w] && !contended[w])
#ifndef NO_LEASE_CHECK
#define USABLE(w) (trust[w] && (new_[w] || (spare[w] && REUSABLE(w))))
#else
#define USABLE(w) (new_[w] || (spare[w] && !contended[w]))
#endif
#define ROOM(w) ((runs[w] == 0 && new_[w] == 0) -> 1 : 0)
#define USED(w) (asked[w] | unasked[w] | spare[w] | runs[w] | ended_[w] | hold[2 * w] | hold[2 * w + 1] | line[2 * w] | line[2 * w + 1] \
  | mend[w] | mask[w] | mheld[w] | mend[LATE + w] | mask[LATE + w] | mheld[LATE + w])

inline ask(w) {         /* Permits.ask */
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

inline withdraw(w) {    /* Outbox.withdraw */
  if :: unasked[w] == 0 -> ended_[w] = ended_[w] | asked[w]; due[w] = 1 :: else fi;
  unasked[w] = 0; asked[w] = 0
}

inline recall(w) {      /* Permits.recall */
  if
  :: contended[w] && (spare[w] & ~new_[w]) ->
     ended_[w] = ended_[w] | (spare[w] & ~new_[w]); spare[w] = new_[w]; due[w] = 1
  :: else
  fi
}

inline granted_(w, n, number) { /* Permits.grant */
  if
  :: number <= granted[w]
  :: else ->
     granted[w] = number;
     if :: broom[w] -> broom[w]-- :: else fi;
     if
     :: asked[w] == BIT(n) -> asked[w] = 0; unasked[w] = 0; spare[w] = spare[w] | BIT(n); new_[w] = new_[w] | BIT(n)
     :: asked[w] != BIT(n) && (ended_[w] & BIT(n)) && asked[w] -> /* Redis didn't know of its withdrawal: it serves the other */
        ended_[w] = ended_[w] & ~BIT(n);
        withdraw(w);
        spare[w] = spare[w] | BIT(n); new_[w] = new_[w] | BIT(n)
     :: else -> ended_[w] = ended_[w] | BIT(n); due[w] = 1
     fi
  fi
}

inline give(w) {        /* Permits.give: the safety of promise 1 is here */
  if
  :: new_[w] -> j = 0; do :: (new_[w] & BIT(j)) -> break :: else -> j++ od
  :: else -> j = 0; do :: (spare[w] & BIT(j)) -> break :: else -> j++ od
  fi;
  runs[w] = BIT(j); exempt[w] = 0;
  spare[w] = spare[w] & ~BIT(j); new_[w] = new_[w] & ~BIT(j);
  assert(RUNNING <= MAX);
  assert(lossy || !(trust[w] && known[w] == epoch && live[2 * w + cur[w]]) || (hold[2 * w + cur[w]] & runs[w])); /* Redis counts it */
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
#ifdef LEASES
  ; mlong[c] = 0
#endif
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

inline sync_failed(w) {
  needs[w] = 1; due[w] = 1; phase[w] = 0;
  sub[w] = 0;           /* disconnected: the subscription goes too */
  no_notices(2 * w); no_notices(2 * w + 1);
  forget_message(w)
}

inline hears_longest(w) {
#ifdef LEASES
  if :: LONG_LIVES || (hears && grown < 2) -> heard_ever[w] = 1 :: else -> heard_ever[w] = 0 fi;
#ifndef NO_TOLD
  heard[w] = TELLS_LONG
#endif
#else
  skip
#endif
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
  hears_longest(w);
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
#ifdef LEASES
  mlong[w] = heard[w];
#endif
  unheard[w] = 1;
  phase[w] = 2; reopen[w] = 0
}

inline opened(w) {
  no_notices(2 * w); no_notices(2 * w + 1);
  cur[w] = ms[w] & 1; unheard[w] = 0; joined[w] = 1; known[w] = epoch; trust[w] = 1; passed[w] = 0; cf[w] = 0;
  hears_longest(w);
  granted[w] = 1; contended[w] = 0; needs[w] = 1; due[w] = 1; sub[w] = 1; broom[w] = 0; cut[w] = 0;
#ifdef REUSE_AT_ONCE    /* Exchange.opened before the model: a restated permit passes on before it is known to be over the max */
  reuse[w] = 1;
#else
  reuse[w] = 0;
#endif
  phase[w] = 0;
  if :: mv[LATE + w] && ms[LATE + w] == ms[w] -> forget_message(LATE + w) :: else fi;
  forget_message(w);
  ask(w)
}

inline no_connections() {
  i = 0;
  do :: i < NW -> sub[i] = 0; no_notices(2 * i); no_notices(2 * i + 1); i++ :: else -> break od;
  if :: phase[0] == 1 -> sync_failed(0) :: else fi;
  if :: phase[1] == 1 -> sync_failed(1) :: else fi;
  i = 0
}
