/*
 * What waits in a worker without a free slot, while another has one: it goes back to its queue, and starts there.
 *
 * Two workers with a slot each take one queue, whose limit is 1. A message comes again and again; with K=2 another comes
 * once. Tasks of other queues take slots, and end. Of a session's room Redis believes what it said last.
 * Time is left out, but for one thing: who takes a queue reads what is in it sooner than another takes it up again.
 *
 * Step -> code: Sync Exchange.collect (room) · Offer core/rooms.lua offer · Weak Moves.say, sync.lua elsewhere ·
 * Act gate._move, intake.move · Back intake.take_up, take_up_overdue · Others gate._next
 *
 * LONG  worker 0's tasks of other queues never end, and worker 1 has none: what worker 0 holds must leave it
 * FULL  no task of other queues ever ends: nothing may move
 * DEAF  worker 1 says that it has room, and reads nothing: what worker 0 has left alone it takes up again
 * Without guards: NO_MOVE, NO_ONCE, NO_ROOM, NO_LEAVING, NO_BOUND
 */
#ifndef K
#define K 1
#endif
#define ABSENT 0
#define QUEUED 1
#define HAND(w) (2 + (w))
#define FREE 0
#define OURS 1
#define OTHER 2

byte loc[2];            /* where each message is */
bit gave0[2], gave1[2]; /* whether worker 0, worker 1 gave it back */
bit turn[2];            /* its turn came while its worker had no slot */
bit older;              /* which message came first */
byte slot[2];
bit room[2];            /* as Redis believes */
bit elsewhere[2];       /* an answer that is under way */
bit left[2];            /* the worker leaves the queue alone */
bit moved;              /* ghost: something went back */
bit sent;               /* the second message has come: it comes once, for later ones with room may go before, as ever */

#define HELD ((slot[0] == OURS) + (slot[1] == OURS))
#define IN(w) (loc[0] == HAND(w) || loc[1] == HAND(w))
#define IS_QUEUED (loc[0] == QUEUED || loc[1] == QUEUED)
#define GAVE(w, m) ((w) == 0 -> gave0[m] : gave1[m])
#ifdef DEAF
#define READS(w) ((w) == 0 && !left[w])
#else
#define READS(w) (!left[w])
#endif
#ifdef NO_ONCE
#define MAY_GO(w, m) (loc[m] == HAND(w))
#else
#define MAY_GO(w, m) (loc[m] == HAND(w) && !GAVE(w, m))
#endif
/* The other message came first, and could start this moment. */
#define IS_AFTER(m) (older != (m) && loc[1 - (m)] >= 2 && slot[loc[1 - (m)] - 2] == FREE)

inline give_back(w, m) {
  if
  :: MAY_GO(w, m) ->
#ifdef FULL
    moved = 1;
#endif
    loc[m] = QUEUED;
    turn[m] = 0;
    if :: w == 0 -> gave0[m] = 1 :: else -> gave1[m] = 1 fi;
#ifndef NO_LEAVING
    left[w] = 1
#endif
  :: else
  fi
}

proctype Send(byte m) {
end:
  do
  :: d_step { loc[m] == ABSENT && !(m == 1 && sent) -> sent = (m == 1 -> 1 : sent); loc[m] = QUEUED; gave0[m] = 0; gave1[m] = 0; turn[m] = 0;
       if :: loc[1 - m] == ABSENT -> older = m :: else -> older = 1 - m fi }
  od
}

proctype Read(byte w, m) {
end:
  do
  :: d_step { READS(w) && loc[m] == QUEUED -> loc[m] = HAND(w) }
  od
}

proctype Start(byte w, m) {
end:
  do
  :: d_step { loc[m] == HAND(w) && slot[w] == FREE && HELD == 0 && !IS_AFTER(m) ->
       if :: loc[1 - m] >= 2 && older != m -> turn[1 - m] = 1 :: else fi;
       loc[m] = ABSENT; slot[w] = OURS; turn[m] = 0 }
  od
}

proctype End(byte w) {
end:
  do
  :: d_step { slot[w] == OURS -> slot[w] = FREE }
#if !defined(LONG) && !defined(FULL)
  :: d_step { slot[w] == OTHER -> slot[w] = FREE }
#endif
  od
}

proctype Others(byte w) { /* a free slot is reserved if Redis has a permit for a waiting request here */
end:
  do
#ifdef LONG
  :: d_step { w == 0 && slot[w] == FREE && !(IN(w) && HELD == 0) -> slot[w] = OTHER }
#else
  :: d_step { slot[w] == FREE && !(IN(w) && HELD == 0) -> slot[w] = OTHER }
#endif
  od
}

proctype Sync(byte w) {
end:
  do
  :: d_step { room[w] != (slot[w] == FREE) -> room[w] = (slot[w] == FREE) }
  od
}

proctype Offer(byte m) {
end:
  do
  :: d_step { loc[m] >= 2 && HELD == 0 && slot[loc[m] - 2] != FREE && !turn[m] -> turn[m] = 1 }
  od
}

proctype Weak(byte w) {
end:
  do
#ifdef NO_MOVE
  :: d_step { false -> skip }
#elif defined(NO_ROOM)
  :: d_step { slot[w] != FREE && !elsewhere[w] && (MAY_GO(w, 0) && turn[0] || MAY_GO(w, 1) && turn[1]) -> elsewhere[w] = 1 }
#else
  :: d_step { slot[w] != FREE && !elsewhere[w] && room[1 - w] && (MAY_GO(w, 0) && turn[0] || MAY_GO(w, 1) && turn[1]) ->
       elsewhere[w] = 1 }
#endif
  od
}

proctype Act(byte w) {
end:
  do
  :: d_step { elsewhere[w] ->
       elsewhere[w] = 0;
       if :: slot[w] != FREE -> give_back(w, 0); give_back(w, 1) :: else fi;
#ifdef FULL
       assert(!moved)
#endif
     }
  od
}

proctype Back(byte w) {
end:
  do
  :: d_step { left[w] && slot[w] == FREE -> left[w] = 0 }
  :: d_step { left[w] && !room[1 - w] && !(IS_QUEUED && READS(1 - w)) -> left[w] = 0 }
#ifndef NO_BOUND
  :: d_step { left[w] && !(IS_QUEUED && READS(1 - w)) -> left[w] = 0 }
#endif
  od
}

init {
  atomic {
#ifdef FULL
    slot[0] = OTHER; slot[1] = OTHER;
#endif
    run Send(0); run Read(0, 0); run Read(1, 0); run Start(0, 0); run Start(1, 0); run Offer(0);
#if K == 2
    run Send(1); run Read(0, 1); run Read(1, 1); run Start(0, 1); run Start(1, 1); run Offer(1);
#endif
    run End(0); run End(1); run Others(0); run Sync(0); run Sync(1);
#if !defined(LONG)
    run Others(1);
#endif
    run Weak(0); run Weak(1); run Act(0); run Act(1); run Back(0); run Back(1)
  }
}

#ifdef LIVENESS
ltl p { [] (loc[0] != ABSENT -> <> (loc[0] == ABSENT)) }
#endif
