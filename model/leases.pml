/*
 * The lease clock, where sessions have leases of their own: A (interval 1, lease 3), B (interval 2, lease 6), and one W
 * that waits for a permit (interval 2; its own lease plays no part).
 *
 * Time here is counted, in small steps: real time as the workers measure it, Redis' wall clock, which may step once by
 * an hour, and the lease clock, which goes on by no more than `cap` in a script. core/clock.lua, core/heartbeats.lua's `changed`,
 * the end of leases in `begin`; open.lua and sync.lua, which renew a lease; session.py: what a session trusts, when W calls.
 * A script is one step. A request may be under way while time passes; the worker counts from its sending.
 *
 * RESTORE  Redis' data go back once, to any earlier moment: the first script after that begins an epoch. A worker that is
 *          cut off still trusts what it was told last, so a lease ends no sooner than a whole one from there.
 */
#ifndef END
#ifdef WAITER
#define END 14          /* for how long real time is looked at */
#elif defined(RESTORE)
#define END 8
#else
#define END 9
#endif
#endif
#define INTERVAL(s) ((s) == 0 -> 1 : 2)
#define LEASE(s) ((s) == 0 -> 3 : 6)
#define WAITS 2         /* W's interval */
#ifdef WAITER
#define HELD held = real
#else
#define HELD skip
#endif
#define HOUR 40
#ifndef LATE
#define LATE WAITS      /* how late a lease may end */
#endif

byte real = 0;          /* real time */
byte ahead = 0;         /* by how much the wall clock is ahead of it */
byte clock = 0, time = 0, cap = 0;  /* META's clock, time, interval */
byte held = 0;          /* META's held: when a step of the clock was last held to the cap (real time here) */
bit live[2];            /* in SESSIONS */
byte ends[2];           /* of the lease, on the lease clock */

bit up[2] = 1, open[2], sent[2];
byte at[2], trust[2];   /* when the request under way was sent; until when the worker starts tasks */
byte last[2];           /* ghost: when Redis last heard of it */
#ifdef WAITER
byte next = WAITS;      /* when W calls */
#endif
bit stepped = 0;
#ifdef RESTORE
bit saved, restored, lost;
byte began;             /* META's epoch_began */
byte c_, t_, cap_, ends_[2];    /* the older data */
#ifdef OLD_LEASES       /* a lease ends as the data have it */
#define STANDS(s) (0)
#else
#define STANDS(s) (restored && !lost && clock < began + LEASE(s))
#endif
#define WHOLE(s) (began + LEASE(s))
#else
#define STANDS(s) (0)
#define WHOLE(s) (0)
#endif
hidden byte x, s;

/* core/heartbeats.lua: the interval of the lease clock is the least of a live session */
inline look_at_heartbeats(opener) {
#ifdef LAST_OPENER      /* META's interval is written by whoever opened last */
  if :: opener < 2 -> cap = INTERVAL(opener) :: else fi
#else
  if :: live[0] -> cap = INTERVAL(0) :: !live[0] && live[1] -> cap = INTERVAL(1) :: else fi
#endif
}

inline begin() {
  x = real + ahead - time;
#ifndef NO_CAP
  if :: cap && x >= cap -> x = cap; HELD :: else fi;
#endif
  clock = clock + x; time = real + ahead; x = 0;
#ifdef RESTORE
  if :: lost -> lost = 0; began = clock :: else fi;    /* core/epochs.lua: begin_after_loss */
#endif
  s = 0;
  do
  :: s < 2 ->
     if
     :: live[s] && ends[s] <= clock && STANDS(s) -> ends[s] = WHOLE(s)
     :: live[s] && ends[s] <= clock && !STANDS(s) ->
        assert(!up[s] || !open[s] || real >= trust[s]);         /* no sooner than the worker's own */
        live[s] = 0; ends[s] = 0; look_at_heartbeats(2)
     :: else
     fi;
     s++
  :: else -> break
  od;
  s = 0
}

inline renew(w) {       /* open.lua, sync.lua */
  begin();
  if
  :: !open[w] || live[w] ->
     live[w] = 1; last[w] = real; ends[w] = clock + LEASE(w);
     if :: !open[w] -> look_at_heartbeats(w) :: else fi;
     open[w] = 1;
#ifdef TO_THE_END       /* the lease is trusted to its end, and not one interval less */
     trust[w] = at[w] + LEASE(w)
#else
     trust[w] = at[w] + LEASE(w) - INTERVAL(w)
#endif
  :: else -> up[w] = 0  /* closed: another session, not modelled */
  fi;
  sent[w] = 0; at[w] = 0
}

proctype Session(byte w) {
end:
  do
#ifdef WAITER           /* nothing is under way */
  :: d_step { up[w] && (open[w] -> real > last[w] : 1) -> at[w] = real; renew(w) }
#else
  :: d_step { up[w] && !sent[w] -> sent[w] = 1; at[w] = real }
  :: d_step { up[w] && sent[w] -> renew(w) }
#endif
  od
}

#ifdef WAITER
inline wait_on() {      /* sync.lua: expires; link._plan_reclaim; a heartbeat at least */
  begin();
  x = WAITS;
  if :: live[0] && ends[0] - clock < x -> x = ends[0] - clock :: else fi;
  if :: live[1] && ends[1] - clock < x -> x = ends[1] - clock :: else fi;
#ifndef NO_HURRY        /* the clock was held back since its last heartbeat: come again in a step of it */
  if :: held && real - held <= WAITS && cap < x -> x = cap :: else fi;
#endif
  next = real + x; x = 0
}
#endif

proctype Time() {
end:
  do
#ifdef WAITER
  :: d_step { real < END && real < next ->
       real++;
       assert(!live[0] || real <= last[0] + LEASE(0) + LATE);    /* while somebody waits, a lease ends soon */
       assert(!live[1] || real <= last[1] + LEASE(1) + LATE)
     }
  :: d_step { real == next && real < END -> wait_on() }
#else
  :: d_step { real < END -> real++ }
#ifdef RESTORE
  :: d_step { !saved && live[0] && live[1] -> saved = 1;
       c_ = clock; t_ = time; cap_ = cap; ends_[0] = ends[0]; ends_[1] = ends[1] }
  :: d_step { saved && !restored -> restored = 1; lost = 1;
       clock = c_; time = t_; cap = cap_; live[0] = 1; live[1] = 1; ends[0] = ends_[0]; ends[1] = ends_[1];
       c_ = 0; t_ = 0; cap_ = 0; ends_[0] = 0; ends_[1] = 0 }
#else
  :: d_step { !stepped && live[0] && live[1] -> stepped = 1; ahead = HOUR }
#endif
#endif
  od
}

init { atomic { run Session(0); run Session(1); run Time() } }
