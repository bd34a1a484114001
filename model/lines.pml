/*
 * Permits, lines, room and turns: what core/serving.lua and core/lines.lua do at each script, for two limits that cross.
 *
 * Four requests, each with a session of its own (so that room comes and goes for each alone): 0 wants A, 1 wants B,
 * 2 wants A and B, 3 wants what WANTS3 says. Each asks, is granted, runs, ends and asks again, in any order, for ever.
 * Local reuse is left out: a permit goes back to Redis when its task ends, as it does while a limit is contended.
 * Arrivals are numbered by rank: 0 = first among those that wait. Every script ends with serve_all().
 */
#ifndef N
#define N 4
#endif
#ifndef TURNS
#define TURNS 3         /* protocol/scripts.py has the same */
#endif
#ifndef WANTS3
#define WANTS3 3
#endif
#define A 1
#define B 2
#define L(i) ((i) == 0 -> A : ((i) == 1 -> B : ((i) == 2 -> 3 : WANTS3)))
#define NONE 9

byte max_[3];           /* by limit: 1 = A, 2 = B */
bit waits[N], holds[N], roomy[N], offered[N];
byte at[N];             /* the limit in whose line it stands */
byte turns[N];          /* record.k */
byte rank[N];           /* order of arrival among those that wait */
byte queue = 0;         /* limits that were touched */

hidden byte i, q, r, lack, p, now_;

#define HELD(l) ((holds[0] && (L(0) & l)) + (holds[1] && (L(1) & l)) + (holds[2] && (L(2) & l)) + HELD3(l))
#if N > 3
#define HELD3(l) (holds[3] && (L(3) & l))
#define RESERVED3(l, a) (waits[3] && turns[3] >= TURNS && (L(3) & l) && rank[3] < a && ROOM_COUNTS(3))
#else
#define HELD3(l) 0
#define RESERVED3(l, a) 0
#endif
#define ROOM_COUNTS(i) roomy[i]
/* one is reserved, for the first of the earlier arrivals whose session has room, however many they are */
#ifdef RESERVES_FOR_ALL /* before chaos found it: one for each of them, so that a full limit empties the other */
#define AND_ONE_FOR +
#else
#define AND_ONE_FOR ||
#endif
#define RESERVED(l, a) ((waits[0] && turns[0] >= TURNS && (L(0) & l) && rank[0] < a && ROOM_COUNTS(0)) \
  AND_ONE_FOR (waits[1] && turns[1] >= TURNS && (L(1) & l) && rank[1] < a && ROOM_COUNTS(1)) \
  AND_ONE_FOR (waits[2] && turns[2] >= TURNS && (L(2) & l) && rank[2] < a && ROOM_COUNTS(2)) AND_ONE_FOR RESERVED3(l, a))
#define HAS_FREE(l, a) (HELD(l) + RESERVED(l, a) < max_[l])
/* the first of its limits, but the one given, that has no room */
#define BLOCKING(n, but) (((L(n) & A) && but != A && !HAS_FREE(A, rank[n])) -> A : (((L(n) & B) && but != B && !HAS_FREE(B, rank[n])) -> B : 0))

#ifdef IGNORES_ROOM
#define HAS_ROOM(n) 1
#else
#define HAS_ROOM(n) roomy[n]
#endif
#ifdef ROOMLESS_STAYS   /* before the model: a waiter without room stays in a line whose limit has room */
#define ROOMLESS skip
#else
#define ROOMLESS at[now_] = lack
#endif

inline leave(n) {       /* it waits no more: those behind move up */
  r = 0;
  do :: r < N -> if :: waits[r] && rank[r] > rank[n] -> rank[r]-- :: else fi; r++ :: else -> break od;
  waits[n] = 0; at[n] = 0; rank[n] = 0; offered[n] = 0
}

inline unreserve(n) {
#ifndef NO_TOUCH_UNRESERVE
  if :: turns[n] >= TURNS -> queue = queue | L(n) :: else fi;
#endif
  turns[n] = 0
}

inline set_room(n, value) {
#ifndef NO_TOUCH_ROOM
  if :: !(value) && roomy[n] && waits[n] && turns[n] >= TURNS -> queue = queue | L(n) :: else fi;
#endif
  roomy[n] = value
}

inline grant(n) {
#if !defined(CHANGES) && !defined(MANY) /* for limits of 1: once permits are reserved for it, no later arrival comes before request 2 */
  assert(!(waits[2] && roomy[2] && turns[2] >= TURNS && n != 2 && rank[n] > rank[2]));
#endif
  assert(HELD(A) + ((L(n) & A) != 0) <= max_[A] || !(L(n) & A));
  assert(HELD(B) + ((L(n) & B) != 0) <= max_[B] || !(L(n) & B));
  assert(roomy[n]);
  set_room(n, 0);
  leave(n);
  unreserve(n);
  holds[n] = 1
}

inline miss_turn(n) {
#ifndef NO_TURNS
  if :: turns[n] <= TURNS -> turns[n]++ :: else fi;
#endif
  at[n] = lack
}

inline serve(limit) {   /* the line of one limit, in order of arrival */
  p = 0;
  do
  :: p < N ->
     now_ = NONE;
     r = 0;
     do :: r < N -> if :: waits[r] && at[r] == limit && rank[r] == p -> now_ = r :: else fi; r++ :: else -> break od;
     if
     :: now_ == NONE -> p++
     :: else ->
        if :: !HAS_FREE(limit, rank[now_]) -> break :: else fi;
        lack = BLOCKING(now_, limit);
        if
        :: !HAS_ROOM(now_) ->
           if :: lack == 0 -> offered[now_] = 1 :: else -> ROOMLESS fi;
           p++
        :: HAS_ROOM(now_) && lack -> miss_turn(now_); p++
        :: else -> i = now_; grant(i) /* those behind have moved up */
        fi
     fi
  :: else -> break
  od
}

inline serve_all() {
  do
  :: queue & A -> queue = queue & ~A; serve(A)
  :: !(queue & A) && (queue & B) -> queue = queue & ~B; serve(B)
  :: else -> break
  od
}

/* What core/serving.lua promises after each script. */
#define COULD(n) (waits[n] && BLOCKING(n, 0) == 0)
inline check() {
  q = 0;
  do
  :: q < N ->
     assert(!(COULD(q) && roomy[q]));
     assert(!(COULD(q) && !roomy[q] && !offered[q]));
     assert(!(waits[q] && holds[q]));
#ifdef MANY             /* a waiter for A alone: all of A but one permit is in use */
     assert(!(q == 0 && waits[q] && roomy[q] && HELD(A) + 1 < max_[A]));
#endif
     q++
  :: else -> break
  od;
  i = 0; q = 0; r = 0; lack = 0; p = 0; now_ = 0
}
inline ask(n) {         /* with a position at the end of the order of arrival */
  r = 0; p = 0;
  do :: r < N -> p = p + waits[r]; r++ :: else -> break od;
  rank[n] = p; waits[n] = 1; turns[n] = 0;
  lack = BLOCKING(n, 0);
  if
  :: lack -> at[n] = lack
  :: !lack && roomy[n] -> grant(n)
  :: else -> at[n] = ((L(n) & A) -> A : B); offered[n] = 1
  fi
}

proctype Request(byte n) {
  do
  :: d_step { !waits[n] && !holds[n] -> ask(n); serve_all(); check() }
  :: d_step { holds[n] -> holds[n] = 0; queue = queue | L(n); serve_all(); check() }            /* remove */
#ifdef ROOM
  :: d_step { waits[n] && !roomy[n] ->                                                          /* sync: touch_waiting */
       set_room(n, 1); offered[n] = 0; queue = queue | at[n]; serve_all(); check() }
  :: d_step { roomy[n] -> set_room(n, 0); serve_all(); check() }
#ifdef GIVE_UP
  :: d_step { waits[n] -> leave(n); unreserve(n); serve_all(); check() }                        /* revoked */
#endif
#else
  :: d_step { !roomy[n] && !holds[n] -> set_room(n, 1); if :: waits[n] -> queue = queue | at[n] :: else fi; serve_all(); check() }
#endif
  od
}

#ifdef CHANGES
proctype Operator() {
  do
  :: d_step { max_[A] < 2 -> max_[A]++; queue = queue | A; serve_all(); check() }
  :: d_step { max_[A] > 0 -> max_[A]-- }
  od
}
#endif

init {
  atomic {
#ifdef MANY
    max_[A] = MANY;
#else
    max_[A] = 1;
#endif
    max_[B] = 1;
    i = 0;
    do :: i < N -> roomy[i] = 1; i++ :: else -> break od;
    i = 0;
    run Request(0); run Request(1); run Request(2);
#if N > 3
    run Request(3);
#endif
#ifdef CHANGES
    run Operator();
#endif
  }
}

#ifdef LIVENESS
ltl crossing { [] (waits[2] -> <> holds[2]) }
#endif
