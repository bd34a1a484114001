/*
 * What waits for a queue's limit waits at the broker: a queue whose limit is full is read by those who hold units of it.
 *
 * Two workers with a slot each take one queue, whose limit is MAX. A worker reads it until a request of it has stood in line
 * for a while, as all units are in use (metered): then that goes back, the session says that it is hungry, and reads only
 * against units that are spare, until such a read finds nothing. A session without a slot has one message in hand, so
 * that it stands in that worker's line for slots. Time is left out, but for two things: idle units come back sooner than a
 * request stops waiting for them (IN_USE), and a queue is left alone for a while only.
 *
 * Step -> code: Sync sync.lua, core/serving.lua feed · LEVEL core/contention.lua between · Read Metering._count, read ·
 * Gate Gate.send_back, Ledger.start, Holdings._surplus · left Intake.move · offer core/rooms.lua offer · End Ledger.ended
 *
 * OTHERS  tasks of other queues take worker 0's slot, again and again (BOTH: worker 1's as well); each ends at last
 * REST    three messages come, and no more: then nothing moves any more
 * Without guards: HASTY, NO_LINE, NO_OPEN
 */
#ifndef MAX
#define MAX 1
#endif
#define FREE 0
#define OURS 1
#define OTHER 2
byte q;                    /* messages that wait at the broker */
byte slot[2], hand[2];     /* hand: a message that was read and has not started */
byte n[2];                 /* units, as session and Redis know them */
bit metered[2];
bit asks[2], hungry[2];    /* stated: a request that waits; that it would read more */
bit room[2];               /* stated */
bit shares[2];             /* told: the other would use units */
bit told[2];               /* told: its request stands in line */
byte first;                /* who of those that ask came first */
byte older;                /* who of the hungry has been so for longer */
bit offer[2];              /* its turn came while it had no room: it keeps its next slot */
bit gave[2];               /* the message went back because it had no slot: it does so once by each worker */
bit left[2];               /* it leaves the queue alone */
bit started;               /* ghost */
bit moved;                 /* ghost: a unit or a message moved */
hidden byte o;

#define USED(w) (slot[w] == OURS)
#define SPARE(w) (n[w] > USED(w))
#define HELD (n[0] + n[1])
#define SHARE ((MAX + 1) / 2)

#define FIT(w) room[w]
#define WAITS(w) (asks[w] && FIT(w))
#define EATS(w) (hungry[w] && FIT(w))
#define BEFORE(a, b) (n[a] < n[b] || (n[a] == n[b] && older == (a)))
inline grant(w) { n[w]++; moved = 1 - moved; room[w] = 0 }
inline serve() {
  do
  :: HELD < MAX && WAITS(0) && !(WAITS(1) && first == 1) -> grant(0); asks[0] = 0
  :: HELD < MAX && WAITS(1) && !(WAITS(0) && first == 0) -> grant(1); asks[1] = 0
  :: HELD < MAX && !WAITS(0) && !WAITS(1) && EATS(0) && !(EATS(1) && BEFORE(1, 0)) -> grant(0); hungry[0] = 0; older = 1
  :: HELD < MAX && !WAITS(0) && !WAITS(1) && EATS(1) && !(EATS(0) && BEFORE(0, 1)) -> grant(1); hungry[1] = 0; older = 0
  :: else -> break
  od;
  offer[0] = (HELD < MAX && asks[0]); offer[1] = (HELD < MAX && asks[1])
}
#define OTHER_LACKS(w) (asks[1 - (w)] || hungry[1 - (w)])
#ifdef HASTY
#define IN_USE(w) 1
#else
#define IN_USE(w) (HELD >= MAX && n[w] == USED(w))
#endif
/* A sync. */
inline state(w) {
  room[w] = (slot[w] == FREE && !(hand[w] && SPARE(w)));
  if :: hand[w] && !SPARE(w) && !asks[w] && !asks[1 - w] -> first = w :: else fi;
  asks[w] = (hand[w] && !SPARE(w));
  if :: !asks[w] && asks[1 - w] -> first = 1 - w :: else fi;
  if :: !hungry[w] && !hungry[1 - w] -> older = w :: else fi;
  hungry[w] = (metered[w] && slot[w] == FREE && !hand[w] && !SPARE(w));
  if :: !hungry[w] && hungry[1 - w] -> older = 1 - w :: else fi;
  serve();
  assert(HELD <= MAX);
  told[w] = (asks[w] && room[w]);
  shares[0] = OTHER_LACKS(0); shares[1] = OTHER_LACKS(1);
  o = 0
}
proctype Sync(byte w) { do :: d_step { state(w) } od }
proctype Read(byte w) {
  do
  :: d_step { !metered[w] && q && !hand[w] && !left[w] -> q--; hand[w] = 1 }
  :: d_step { metered[w] && SPARE(w) && slot[w] == FREE && !hand[w] && q -> q--; hand[w] = 1 }
#ifdef NO_OPEN
  :: d_step { metered[w] && SPARE(w) && !hand[w] && slot[w] == FREE && !q -> n[w]--; state(w) }
#else
  :: d_step { metered[w] && SPARE(w) && !hand[w] && slot[w] == FREE && !q -> metered[w] = 0 }
#endif
#ifndef NO_LINE
  :: d_step { metered[w] && slot[w] == OTHER && !hand[w] && q && !left[w] -> q--; hand[w] = 1 }
#endif
  od
}
proctype Gate(byte w) {
  do
  :: d_step { hand[w] && slot[w] == FREE && SPARE(w) -> hand[w] = 0; slot[w] = OURS; gave[0] = 0; gave[1] = 0; started = 1 - started }
  :: d_step { told[w] && asks[w] && hand[w] && !SPARE(w) && IN_USE(1 - w) -> told[w] = 0; metered[w] = 1; hand[w] = 0; q++; moved = 1 - moved }
  :: d_step { hand[w] && slot[w] == OTHER && room[1 - w] && !gave[w] -> gave[w] = 1; hand[w] = 0; q++; moved = 1 - moved; asks[w] = 0; left[w] = 1 }
  :: d_step { left[w] -> left[w] = 0 }
  /* spare, and nothing here is to have it */
  :: d_step { SPARE(w) && !hand[w] && (!metered[w] || (shares[w] && n[w] > SHARE)) -> n[w]--; moved = 1 - moved; state(w) }
  :: d_step { SPARE(w) && slot[w] == OTHER -> n[w]--; moved = 1 - moved; state(w) }
  od
}
proctype End(byte w) {
  do
  :: d_step { slot[w] == OURS -> slot[w] = FREE;
       if :: shares[w] && n[w] > SHARE -> n[w]--; moved = 1 - moved :: else fi }
  :: d_step { slot[w] == OTHER -> slot[w] = FREE }
  od
}
#ifdef OTHERS
proctype Others(byte w) {
  do
  :: d_step { slot[w] == FREE && !(hand[w] && (SPARE(w) || offer[w])) -> slot[w] = OTHER }
  od
}
#endif
#ifdef REST
proctype Send() { byte some = 3; do :: d_step { some > 0 && q < 2 -> q++; some-- } od }
#else
proctype Send() { do :: d_step { q == 0 -> q = 1 } od }
#endif
init { atomic {
  run Sync(0); run Sync(1); run Read(0); run Read(1); run Gate(0); run Gate(1); run End(0); run End(1); run Send();
#ifdef OTHERS
  run Others(0);
#ifdef BOTH
  run Others(1);
#endif
#endif
} }
#ifdef LIVENESS
ltl p { [] (q > 0 -> <> (started == 1)) && [] (q > 0 -> <> (started == 0)) }
#endif
#ifdef QUIET
ltl p { (<> [] (moved == 0)) || (<> [] (moved == 1)) }
#endif
