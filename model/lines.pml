/*
 * Lines, turns, room and weights: what core/serving.lua and core/lines.lua do at each script, for two limits that cross.
 *
 * Four wants, each of one request and of a session of its own (so that room comes and goes for each alone): 0 wants A,
 * 1 wants B, 2 what WANTS2 says (A and B), 3 what WANTS3 says; HEAVY weighs 2 on A, all else 1. Each asks, is granted,
 * runs, ends and asks again, in any order, for ever.
 * Local reuse is left out: units go back to Redis when their task ends, as they do while a limit is contended.
 * Arrivals are numbered by rank: 0 = first among those that wait. Every script ends with serve_all().
 */
#ifndef N
#define N 4
#endif
#ifndef TURNS
#define TURNS 3         /* protocol/scripts.py has the same */
#endif
#ifndef WANTS2
#define WANTS2 3
#endif
#ifndef WANTS3
#define WANTS3 3
#endif
#define A 1
#define B 2
#define L(i) ((i) == 0 -> A : ((i) == 1 -> B : ((i) == 2 -> WANTS2 : WANTS3)))
#define NONE 9
#ifdef HEAVY
#define W(i, l) (((i) == HEAVY && (l) == A) -> 2 : 1)
#else
#define W(i, l) 1
#endif

byte max_[3];           /* by limit: 1 = A, 2 = B */
bit waits[N], holds[N], roomy[N], offered[N];
bit aside[N];           /* of those in line: not in TURNS */
byte at[N];             /* the limit in whose line it stands */
byte turns[N];          /* record.k */
byte rank[N];           /* order of arrival among those that wait */
byte queue = 0;         /* limits that were touched */

hidden byte i, q, r, lack, p, now_;

#define HELD(l) (HOLDS(0, l) + HOLDS(1, l) + HOLDS(2, l) + HOLDS(3, l))
#define HOLDS(i, l) ((holds[i] && (L(i) & l)) -> W(i, l) : 0)
/* units are held back for the first of the earlier arrivals whose session has room, however many they are */
#define MISSED(i, l, a) (waits[i] && turns[i] >= TURNS && (L(i) & l) && rank[i] < a && roomy[i])
#ifdef RESERVES_FOR_ALL /* before chaos found it: some for each of them, so that a full limit empties the other */
#define RESERVED(l, a) (MISSED(2, l, a) + MISSED(3, l, a))
#else
#define RESERVED(l, a) \
  ((MISSED(2, l, a) && !(MISSED(3, l, a) && rank[3] < rank[2])) -> W(2, l) : (MISSED(3, l, a) -> W(3, l) : 0))
#endif
#define FREE(l, a) (max_[l] - HELD(l) - RESERVED(l, a))
/* is what is free for one that stands in line before, and needs more? (lines.lua: is_for_a_heavier) */
#if defined(HEAVY) && !defined(NO_HEAVIER)
#define HAS_TURN(i, l) (waits[i] && at[i] == l && !aside[i])
#define BEFORE_IT(i, l) (HAS_TURN(i, l) && rank[i] < rank[HEAVY])
#define IS_FOR_HEAVIER(l, a) (HAS_TURN(HEAVY, l) && rank[HEAVY] < a && W(HEAVY, l) > FREE(l, a) && \
  !BEFORE_IT(0, l) && !BEFORE_IT(1, l) && !BEFORE_IT(2, l) && !BEFORE_IT(3, l))
#define IS_IN_VAIN(l, a) (IS_FOR_HEAVIER(l, a) && !roomy[HEAVY])
#else
#define IS_FOR_HEAVIER(l, a) 0
#define IS_IN_VAIN(l, a) 0
#endif
#define IS_ENOUGH(l, w, a) (max_[l] >= HELD(l) + RESERVED(l, a) + w)
#define HAS_FREE(l, w, a) (IS_ENOUGH(l, w, a) && !IS_FOR_HEAVIER(l, a))
#define LACKS(n, l) ((L(n) & l) && !HAS_FREE(l, W(n, l), rank[n]))

#ifdef IGNORES_ROOM
#define HAS_ROOM(n) 1
#else
#define HAS_ROOM(n) roomy[n]
#endif
#ifdef ROOMLESS_STAYS   /* before the model: a waiter without room stays in a line whose limit has room */
#define ROOMLESS aside[now_] = 1
#else
#define ROOMLESS leave_line(now_); at[now_] = lack
#endif

inline leave_line(n) {  /* lines.leave */
#ifndef NO_TOUCH_LEAVE
  if :: at[n] && W(n, at[n]) > 1 -> queue = queue | at[n] :: else fi;
#endif
  at[n] = 0; aside[n] = 0
}

inline leave(n) {       /* it waits no more: those behind move up */
  leave_line(n);
  r = 0;
  do :: r < N -> if :: waits[r] && rank[r] > rank[n] -> rank[r]-- :: else fi; r++ :: else -> break od;
  waits[n] = 0; rank[n] = 0; offered[n] = 0
}

inline unreserve(n) {
#ifndef NO_TOUCH_UNRESERVE
  if :: turns[n] >= TURNS -> queue = queue | L(n) :: else fi;
#endif
  turns[n] = 0
}

inline set_room(n, value) {
#ifndef NO_TOUCH_ROOM
  if
  :: !(value) && roomy[n] && waits[n] && turns[n] >= TURNS -> queue = queue | L(n)
#ifndef NO_TOUCH_HEAVY
  :: !(value) && roomy[n] && waits[n] && turns[n] < TURNS && W(n, at[n]) > 1 -> queue = queue | at[n]
#endif
  :: else
  fi;
#endif
  roomy[n] = value
}

#define IS_THERE(n, l) (!(L(n) & l) || (IS_ENOUGH(l, W(n, l), rank[n]) && \
  (!IS_FOR_HEAVIER(l, rank[n]) || IS_IN_VAIN(l, rank[n]))))
#define COULD(n) (waits[n] && IS_THERE(n, A) && IS_THERE(n, B))
#define IS_PASSED(m, n) (m != n && waits[m] && roomy[m] && rank[m] < rank[n] && at[n] && (at[m] & L(n)) && COULD(m))

inline grant(n) {
#if !defined(CHANGES) && !defined(MANY) /* for limits of 1: once units are held back for it, no later arrival comes before request 2 */
  assert(!(waits[2] && roomy[2] && turns[2] >= TURNS && n != 2 && rank[n] > rank[2]));
#endif
#ifdef HEAVY            /* the heavier one isn't passed in its line */
  assert(!(waits[HEAVY] && roomy[HEAVY] && at[HEAVY] == A && n != HEAVY && (L(n) & A) && rank[n] > rank[HEAVY]));
#endif
  /* nor does one that stands in line pass one that came before, stands in line for one of its limits, and could start */
  assert(!IS_PASSED(0, n) && !IS_PASSED(1, n) && !IS_PASSED(2, n) && !IS_PASSED(3, n));
  assert(HELD(A) + W(n, A) <= max_[A] || !(L(n) & A));
  assert(HELD(B) + W(n, B) <= max_[B] || !(L(n) & B));
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
  leave_line(n);
  at[n] = lack
}

inline find_lack(n, but) { /* lines.blocking: the first of its limits, but the one given, that has not enough */
  lack = 0;
  if
  :: but != A && LACKS(n, A) -> lack = A
  :: !(but != A && LACKS(n, A)) && but != B && LACKS(n, B) -> lack = B
  :: else
  fi;
#ifndef NO_TOUCH_VAIN   /* what is kept for one without room is for others */
  if :: lack && IS_IN_VAIN(lack, rank[n]) -> queue = queue | lack :: else fi
#endif
}

#ifdef NO_OFFER
#define offer_early(n) skip
#else
#define offer_early(n) offered[n] = 1
#endif

/* is the line of its other limit still to be served, in which somebody stands who came before it? */
#ifdef NO_WAY
#define GIVES_WAY(n, l) 0
#else
#define TURN_BEFORE(i, n, l) (waits[i] && at[i] == l && !aside[i] && rank[i] < rank[n])
#define GIVES_WAY_TO(n, l) (((L(n) & l) && (queue & l)) && \
  (TURN_BEFORE(0, n, l) || TURN_BEFORE(1, n, l) || TURN_BEFORE(2, n, l) || TURN_BEFORE(3, n, l)))
#define GIVES_WAY(n, l) GIVES_WAY_TO(n, (3 - (l)))
#endif

inline serve(limit) {   /* the line of one limit, in order of arrival */
  do
  :: true ->
     now_ = NONE; r = 0;
     do
     :: r < N ->
        if
        :: waits[r] && at[r] == limit && !aside[r] && (now_ == NONE || rank[r] < rank[now_]) -> now_ = r
        :: else
        fi;
        r++
     :: else -> break
     od;
     if :: now_ == NONE -> break :: else fi;
     if
     :: !HAS_FREE(limit, W(now_, limit), rank[now_]) ->
#ifdef STOPS_AT_ROOMLESS
        break
#else
        if
        :: roomy[now_] || !HAS_FREE(limit, 1, rank[now_]) -> break
        :: else -> offer_early(now_); aside[now_] = 1
        fi
#endif
     :: HAS_FREE(limit, W(now_, limit), rank[now_]) && GIVES_WAY(now_, limit) -> queue = queue | limit; break
     :: else ->
        find_lack(now_, limit);
        if
        :: !HAS_ROOM(now_) -> if :: lack == 0 -> offered[now_] = 1; aside[now_] = 1 :: else -> ROOMLESS fi
        :: HAS_ROOM(now_) && lack -> miss_turn(now_)
        :: else -> i = now_; grant(i)
        fi
     fi
  od
}

inline serve_all() {
  do
  :: queue & A -> queue = queue & ~A; serve(A); if :: queue & B -> queue = queue & ~B; serve(B) :: else fi
  :: !(queue & A) && (queue & B) -> queue = queue & ~B; serve(B)
  :: else -> break
  od
}

/* What core/serving.lua promises after each script. */
inline check() {
  q = 0;
  do
  :: q < N ->
     assert(!(COULD(q) && roomy[q]));
     assert(!(COULD(q) && !roomy[q] && !offered[q]));
     assert(!(waits[q] && holds[q]));
#if defined(MANY) && !defined(HEAVY) /* who waits for A alone: all of A but one unit is in use */
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
  find_lack(n, 0);
  if
  :: lack -> at[n] = lack
  :: !lack && roomy[n] -> grant(n)
  :: else -> at[n] = ((L(n) & A) -> A : B); offered[n] = 1
  fi
}

#ifdef NO_TOUCH_LIGHTER
#define touch_lines(n) queue = queue | at[n]
#else                   /* what was held back for another may have been more */
#define touch_lines(n) queue = queue | (turns[n] >= TURNS -> L(n) : at[n])
#endif

proctype Request(byte n) {
  do
  :: d_step { !waits[n] && !holds[n] -> ask(n); serve_all(); check() }
  :: d_step { holds[n] -> holds[n] = 0; queue = queue | L(n); serve_all(); check() }            /* units.set */
#ifdef ROOM
  :: d_step { waits[n] && !roomy[n] ->                                                          /* sync: bring_back, touch_lines_of */
       set_room(n, 1); offered[n] = 0; aside[n] = 0; touch_lines(n); serve_all(); check() }
  :: d_step { roomy[n] -> set_room(n, 0); serve_all(); check() }
#ifdef GIVE_UP
  :: d_step { waits[n] -> leave(n); unreserve(n); serve_all(); check() }                        /* revoked */
#endif
#else
  :: d_step { !roomy[n] && !holds[n] -> set_room(n, 1); aside[n] = 0; if :: waits[n] -> touch_lines(n) :: else fi; serve_all(); check() }
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
