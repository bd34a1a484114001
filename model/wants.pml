/*
 * Wants: what a session tells Redis of the requests that wait under one set of claims, as changes, while it is granted some.
 *
 * Requests come in the order of their numbers, so a set of them is a list. A want says: of the requests told before and
 * not granted by grant g, the first `skip` are gone and the next `kept` stay; then new ones follow. Meanwhile requests
 * start with units that the session has, leave, or lose a grant for want of a slot. Units themselves are in units.pml.
 *
 * Each step is a script, or a method of worker/ledger; an answer comes with its script, a notice at any time or never.
 */
#ifndef REQUESTS
#define REQUESTS 4      /* requests, in all */
#endif
#ifndef FAULTS
#define FAULTS 2        /* how often a message is lost, late or doubled */
#endif
#ifndef SPARES
#define SPARES 2        /* how often a unit becomes spare */
#endif
#ifndef DROPS
#define DROPS 1         /* how often a grant finds no slot */
#endif
#define BIT(i) (1 << (i))
#define PC(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1))
#define LATE 1          /* the message that arrives after the worker has given up on it; 0 is the one under way */
#define AHEAD (granted + (PC(wait_) > granted -> spare : 0))

/* ---- Redis ---- */
byte r = 0;             /* the requests of the want */
byte gl = 0;            /* number of the last grant */
bit forgets = 0;

/* ---- the worker: Line, Asks, Exchange ---- */
byte came = 0, wait_ = 0, told = 0;
byte asked = 0, granted = 0, spare = 0, gk = 0;
bit dirty = 0, needs = 1, contended = 0, phase = 0;
byte faults = FAULTS, spares = SPARES, drops = DROPS;

/* ---- messages ---- */
bit mv[2], mfull[2], mhas[2], mold[2];  /* mold: a later one was executed */
byte mskip[2], mkept[2], mnew[2], mg[2];

hidden byte i, c, x, y, z, some, unknown, unclear;

inline first(m, k) {    /* x: the first k of m; c: how many these are */
  x = 0; c = 0; i = 0;
  do
  :: i < REQUESTS && c < (k) -> if :: (m) & BIT(i) -> x = x | BIT(i); c++ :: else fi; i++
  :: else -> break
  od
}

/* ======== sync.lua ======== */

inline sync(m) {
  unknown = gl - mg[m]; unclear = 0;
  if
  :: mhas[m] ->
     first(r, mskip[m]); some = r & ~x;
#ifdef NO_DROP_KEPT     /* what is kept is taken for what waits, though some of it was granted */
     y = mkept[m];
#else
     y = (mkept[m] > unknown -> mkept[m] - unknown : 0);
#endif
     first(some, y); z = x;
     if
     :: c < y ->
#ifdef NO_UNCLEAR
        r = z | mnew[m]
#else
        unclear = 1
#endif
     :: else ->
#ifdef NO_DROP_NEW      /* what is new is taken for what waits, though grants are under way for more than is kept */
        y = 0;
#else
        y = (unknown > mkept[m] -> unknown - mkept[m] : 0);
#endif
        first(mnew[m], y);
        r = z | (mnew[m] & ~x)
     fi
  :: !mhas[m] && mfull[m] -> r = 0
  :: else
  fi
}

/* ======== worker/ledger ======== */

inline ask() {          /* Asks.ask: for one at least, where others wait for all */
  y = PC(wait_); z = AHEAD;
  if
  :: y <= z -> if :: asked -> asked = 0; dirty = 1 :: else fi
  :: else ->
     y = y - z;
     z = (contended -> REQUESTS : (asked > 1 -> asked : 1));
     if :: y < z -> z = y :: else fi;
     if :: asked != z -> asked = z; dirty = 1 :: else fi
  fi
}

inline pop() { first(wait_, 1); wait_ = wait_ & ~x }

inline drop_granted(k) { granted = granted - (k); dirty = 1 }

inline went_back() { ask(); if :: asked -> dirty = 1 :: else fi }

inline take_grant() {   /* Asks.grant */
  gk++;
  if :: asked -> asked-- :: else fi;
#ifndef NO_POP          /* those that were told are no longer as of the last grant */
  first(told, 1); told = told & ~x;
#endif
  if :: PC(wait_) > granted -> granted++ :: else fi
}

inline said() {         /* Asks.said */
  z = AHEAD;
  first(wait_, z); some = wait_ & ~x;
  first(some, asked); some = x; asked = c;
  mskip[0] = 0; mkept[0] = 0;
  if
#ifdef NO_ANEW          /* changes are told on, though what they change may not have arrived */
  :: told && some ->
#else
  :: told && some && !needs ->
#endif
     first(some, 1);
     if :: told & x -> mskip[0] = PC((told & (x - 1))) :: else -> mskip[0] = PC(told) fi;
     first(told, mskip[0]); y = told & ~x; z = some;
     do                 /* as long as both go on alike */
     :: y && z && (y & -y) == (z & -z) -> mkept[0]++; y = y & (y - 1); z = z & (z - 1)
     :: else -> break
     od
  :: else
  fi;
  first(some, mkept[0]); mnew[0] = some & ~x;
  told = some
}

inline collect(beat) {
  mv[0] = 1; mold[0] = 0; mfull[0] = (needs || beat); mg[0] = gk;
  mhas[0] = (mfull[0] -> asked > 0 : dirty);
  if :: mhas[0] -> said() :: else fi;
  if :: !asked -> told = 0 :: else fi;
  dirty = 0; needs = 0; phase = 1
}

inline forget_message(m) {
  mv[m] = 0; mfull[m] = 0; mhas[m] = 0; mold[m] = 0; mskip[m] = 0; mkept[m] = 0; mnew[m] = 0; mg[m] = 0
}

inline sync_failed() { needs = 1; phase = 0; forget_message(0) }

inline delay() {
  mv[LATE] = 1; mfull[LATE] = mfull[0]; mhas[LATE] = mhas[0]; mskip[LATE] = mskip[0]; mkept[LATE] = mkept[0];
  mnew[LATE] = mnew[0]; mg[LATE] = mg[0]
}

inline executed() {     /* what comes later of an earlier sync is stale */
  if :: mv[LATE] -> mold[LATE] = 1 :: else fi
}

inline renumber() {     /* only the order of grants matters */
  if :: gk == gl && !mv[LATE] && !phase -> gk = 0; gl = 0 :: else fi
}

inline tidy() { i = 0; c = 0; x = 0; y = 0; z = 0; some = 0; unknown = 0; unclear = 0 }

proctype Gate() {
  do
  :: d_step { came < REQUESTS -> wait_ = wait_ | BIT(came); came++; ask(); tidy() }
  :: d_step { wait_ && granted -> pop(); granted--; if :: wait_ || asked -> ask() :: else fi; tidy() }
  :: d_step { wait_ && !granted && spare ->              /* with units that it has: Asks.pass_by */
       pop(); spare = 0;
       if :: contended && asked -> asked--; dirty = 1 :: else fi;
       if :: wait_ || asked -> ask() :: else fi;
       tidy() }
  :: d_step { spares && !spare -> spare = 1; spares--; if :: wait_ -> ask() :: else fi; tidy() }
  :: d_step { spare && (wait_ || !spares) -> spare = 0; went_back(); tidy() }
  :: d_step { granted && drops -> drops--; drop_granted(1); went_back(); tidy() }
#ifdef LEAVES
  :: atomic { wait_ ->                                   /* revoked */
       if :: wait_ & 1 -> x = 1 :: wait_ & 2 -> x = 2 :: wait_ & 4 -> x = 4 :: wait_ & 8 -> x = 8 fi;
       d_step {
         wait_ = wait_ & ~x;
         if :: granted > PC(wait_) -> drop_granted(granted - PC(wait_)) :: else fi;
         ask(); tidy() } }
#endif
  od
}

proctype Link() {
  do
  :: d_step { !phase && (dirty || needs) -> collect(0); tidy() }
  :: d_step { !phase && !dirty && !needs -> collect(1); tidy() }
  :: d_step { phase ->
       sync(0); executed();
       do :: gk < gl -> take_grant() :: else -> break od;
       if
       :: unclear -> needs = 1
       :: else -> assert(!(mhas[0] || mfull[0]) || told == r)
       fi;
       phase = 0; forget_message(0); renumber(); tidy() }
  :: d_step { gk < gl -> take_grant(); renumber(); tidy() }   /* a notice */
  :: d_step { faults && phase -> faults--; sync_failed() }    /* not executed */
  :: d_step { faults && phase -> faults--; sync(0); executed(); sync_failed(); tidy() }  /* the answer is lost */
#ifdef DELAYED
  :: d_step { faults && phase && !mv[LATE] -> faults--; delay(); sync_failed() }
  :: d_step { faults && phase && !mv[LATE] -> faults--; sync(0); delay(); mold[LATE] = 1; sync_failed(); tidy() }
#endif
  od
}

proctype Redis() {
  do
  :: d_step { r && gl < gk + 3 -> first(r, 1); r = r & ~x; gl++; tidy() }  /* serving.grant */
  od
}

proctype Trouble() {
  do
  :: d_step { contended -> contended = 0 }
  :: d_step { !contended -> contended = 1 }
#ifdef DELAYED
  :: d_step { mv[LATE] ->
#ifdef NO_SYNC_NUMBER
       sync(LATE);
#else
       if :: !mold[LATE] -> sync(LATE) :: else fi;
#endif
       forget_message(LATE); tidy() }
#endif
#ifdef FORGETS          /* audit.lua, or what nobody thought of */
  :: d_step { r && !forgets -> forgets = 1; r = 0 }
#endif
  od
}

init { atomic { run Gate(); run Link(); run Redis(); run Trouble() } }

#ifdef LIVENESS
ltl served { [] (wait_ != 0 -> <> (wait_ == 0)) }
#endif
