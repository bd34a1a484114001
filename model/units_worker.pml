/* Part of units.pml: what worker/ledger and worker/session do, one method after the other. */

/* ======== worker/ledger ======== */

#define SPARE(w) (n[w] - used[w] - new_[w])
#define REUSABLE(w) (trust[w] && reuse[w] && !contended[w])
#ifndef NO_LEASE_CHECK
#define USABLE(w) (trust[w] && (new_[w] > 0 || (SPARE(w) > 0 && REUSABLE(w))))
#else
#define USABLE(w) (new_[w] > 0 || (SPARE(w) > 0 && !contended[w]))
#endif
#define LACKS(w) (wait_[w] && new_[w] == 0 && !(SPARE(w) > 0 && REUSABLE(w)))    /* Asks.ask: it asks Redis */

inline start(w) {       /* Ledger.next: the safety of promise 1 is here */
  used[w] = 1; exempt[w] = 0; wait_[w] = 0; head = 1 - w;
  if :: new_[w] -> new_[w]-- :: else fi;
  if :: asked[w] -> due[w] = 1 :: else fi;
#ifndef UNCOUNTED       /* what has no promise there isn't looked at */
  assert(RUNNING <= MAX);
  assert(lossy || !(trust[w] && known[w] == epoch && live[CUR(w)]) || UNITS(CUR(w)) >= used[w]) /* Redis counts it */
#endif
}

inline give_back(w, m) { n[w] = n[w] - (m); chg[w] = 1; due[w] = 1 }

inline drop_new(w) {    /* Asks.release_granted */
  give_back(w, new_[w]); new_[w] = 0
}

inline settle(w) {      /* Holdings.settle */
  if :: contended[w] && SPARE(w) > 0 -> give_back(w, SPARE(w)) :: else fi
}

inline granted(w, k) {  /* Asks.grant: k of them */
  n[w] = n[w] + k; new_[w] = new_[w] + k; gk[w] = gk[w] + k; asked[w] = 0
}

inline noticed(w) {     /* Exchange.noticed */
  if
#ifdef NO_NEWS          /* a grant counts whenever it comes */
  :: ng[CUR(w)] <= gk[w] -> n[w]++; new_[w]++
#endif
  :: ng[CUR(w)] == gk[w] + 1 -> granted(w, 1)
  :: ng[CUR(w)] > gk[w] + 1 -> due[w] = 1
  :: else
  fi
}

inline forget_message(c) {
  mv[c] = 0; ms[c] = 0; mep[c] = 0; msn[c] = 0; mg[c] = 0; mn[c] = 0; mset[c] = 0; mwant[c] = 0; mroom[c] = 0; mcf[c] = 0;
  mstart[c] = 0
#ifdef LEASES
  ; mlong[c] = 0
#endif
}

#define HAS_NEWS(w) (needs[w] || chg[w] || LACKS(w) || contended[w] || asked[w])

inline collect(w, beat) { /* Exchange.collect: with a beat a statement, or a heartbeat where there is nothing to say */
  mv[w] = ((beat) && !HAS_NEWS(w) -> 3 : 1);
  ms[w] = CUR(w); mep[w] = known[w]; msn[w] = 3; mcf[w] = cf[w]; mg[w] = gk[w];
  mset[w] = (needs[w] || chg[w] || beat);
  mn[w] = (mset[w] -> n[w] : 0);
  mwant[w] = LACKS(w); mroom[w] = (!used[w] && new_[w] == 0);
  asked[w] = mwant[w];
  due[w] = 0; needs[w] = 0; chg[w] = 0; phase[w] = 1
}

inline delay(w) {       /* the worker gives up on a message, which arrives all the same */
  mv[LATE + w] = mv[w]; ms[LATE + w] = ms[w]; mep[LATE + w] = mep[w]; mg[LATE + w] = mg[w]; mn[LATE + w] = mn[w];
  mset[LATE + w] = mset[w]; mwant[LATE + w] = mwant[w]; mroom[LATE + w] = mroom[w]; mcf[LATE + w] = mcf[w];
  mstart[LATE + w] = mstart[w]; msn[LATE + w] = 2
}

inline no_notices(s) { ng[s] = 0; nrec[s] = 0 }

inline no_late_beat(w) { /* a later sync was executed: Redis doesn't go on from a heartbeat before it */
  if :: mv[LATE + w] == 3 && ms[LATE + w] == ms[w] -> forget_message(LATE + w) :: else fi
}

inline overtaken(w) {   /* a later sync was executed: the delayed one is stale */
  no_late_beat(w);
  if
  :: mv[LATE + w] == 1 && ms[LATE + w] == ms[w] ->
     msn[LATE + w] = 0
#ifndef NO_SYNC_NUMBER
     ; mg[LATE + w] = 0; mn[LATE + w] = 0; mset[LATE + w] = 0; mwant[LATE + w] = 0; mroom[LATE + w] = 0
#endif
  :: else
  fi
}

inline sync_failed(w) {
  needs[w] = 1; due[w] = 1; phase[w] = 0;
  sub[w] = 0;           /* disconnected: the subscription goes too */
  no_notices(2 * w); no_notices(2 * w + 1); forget_message(w)
}

inline renumber(w) {    /* only the order of grants matters: begin at 0 again */
  if
  :: mv[LATE + w] == 0 && phase[w] == 0 && ng[CUR(w)] == 0 && gk[w] == gl[CUR(w)] && live[CUR(w)] && known[w] == epoch ->
     base[CUR(w)] = UNITS(CUR(w)); gb[CUR(w)] = 0; gl[CUR(w)] = 0; gk[w] = 0
  :: else
  fi
}

inline hears_longest(w) {
#ifdef LEASES
  if :: LONG_LIVES || (hears && grown < 2) -> heard_ever[w] = 1 :: else -> heard_ever[w] = 0 fi;
#if defined(NO_TOLD)
  skip
#elif defined(NO_BEAT_LONGEST)
  if :: mv[w] != 3 -> heard[w] = TELLS_LONG :: else fi
#else
  heard[w] = TELLS_LONG
#endif
#else
  skip
#endif
}

inline apply(w) {       /* Exchange.answered: with the grants above the last one that it knows */
  if
  :: mv[w] == 1 ->
     if :: gl[ms[w]] > gk[w] -> granted(w, (gl[ms[w]] - gk[w])) :: else fi;
     contended[w] = CONTENTION(ms[w]); look_who_waits(ms[w]);
     settle(w);
     nrec[ms[w]] = 0
  :: else               /* to a heartbeat: there is nothing else to say */
  fi;
  trust[w] = 1; reuse[w] = 1; passed[w] = 0; cf[w] = 1;
  hears_longest(w);
  if :: ng[ms[w]] <= gk[w] -> ng[ms[w]] = 0 :: else fi;
#ifdef SNAPSHOT
  z_ss[ms[w]] = 0;      /* what is confirmed now was not in the snapshot */
#endif
  phase[w] = 0; forget_message(w);
  renumber(w)
}

inline holdings(w) {    /* Ledger.holdings: it opens another session, and states what runs */
  n[w] = used[w]; new_[w] = 0; chg[w] = 0; asked[w] = 0;
  mv[w] = 2; mstart[w] = !joined[w]; ms[w] = 2 * w + 1 - cur[w]; mep[w] = known[w]; mn[w] = used[w];
#ifdef LEASES
  mlong[w] = heard[w];
#endif
  unheard[w] = 1; phase[w] = 2; reopen[w] = 0
}

inline opened(w) {      /* Exchange.opened */
  no_notices(2 * w); no_notices(2 * w + 1);
  cur[w] = ms[w] & 1; unheard[w] = 0; joined[w] = 1; known[w] = epoch; trust[w] = 1; passed[w] = 0; cf[w] = 0;
  hears_longest(w);
  gk[w] = 0; contended[w] = 0; needs[w] = 1; due[w] = 1; sub[w] = 1; cut[w] = 0;
#ifdef REUSE_AT_ONCE    /* before the model: a restated unit passes on before it is known to be over the max */
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
