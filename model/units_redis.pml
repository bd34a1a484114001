/* Part of units.pml: what the scripts do. */

/* ======== core/*.lua ======== */

inline end_session(s) { /* sessions.finish */
  live[s] = 0; seen[s] = 0; ss[s] = 0; base[s] = 0; gb[s] = 0; gl[s] = 0; want[s] = 0; room[s] = 0;
  if :: LINE_EMPTY -> flag = 0 :: else fi
}

#ifdef PIECES           /* what it has and waits for is taken away by the scripts to come (scripts.py: WORK) */
inline end_session_soon(s) { live[s] = 0; seen[s] = 0; ss[s] = 0; room[s] = 0 }

inline take_piece() {   /* epochs.end_dead_sessions */
#ifndef NO_REST
  j = 0;
  do
  :: j < NS && !live[j] && (UNITS(j) || want[j]) -> end_session(j); break
  :: j < NS && (live[j] || !(UNITS(j) || want[j])) -> j++
  :: else -> break
  od
#else
  skip
#endif
}
#else
#define end_session_soon(s) end_session(s)
#define take_piece() skip
#endif

inline grant(s) {       /* serving.grant */
  gl[s]++; room[s] = 0; want[s] = 0;
  if :: LINE_EMPTY -> flag = 0 :: else fi;
  if
#ifndef NO_NOTICES
  :: s != me && LISTENS(s) -> ng[s] = gl[s]; nrec[s] = 1
#endif
  :: else
  fi
}

inline serve(s) { if :: want[s] && room[s] && HAS_UNIT && gl[s] < TOP -> grant(s) :: else fi }

inline serve_all() {    /* in order of arrival at the gates */
  if
  :: head == 0 -> serve(0); serve(1); serve(2); serve(3)
  :: else -> serve(2); serve(3); serve(0); serve(1)
  fi
}

inline contend(s) {     /* contention.begin */
  if
  :: flag == STAR || flag == s + 1
  :: else ->
     was = flag;
     flag = (flag != 0 -> STAR : s + 1);
     j = 0;
     do
     :: j < NS ->
#if !defined(NO_NOTICES) && !defined(NO_CONTEND)
        if :: UNITS(j) && j != me && (was || j != s) && sub[OWNER(j)] && cur[OWNER(j)] == (j & 1) -> nrec[j] = 1 :: else fi;
#endif
        j++
     :: else -> break
     od
  fi
}

inline look_who_waits(s) { /* contention.between: the flag may have been behind */
  if :: HELD <= MAX && flag != 0 && flag != s + 1 && !IN_LINE_OF_OTHERS(s) -> flag = (want[s] -> s + 1 : 0) :: else fi
}

inline open_settled() {
  if
  :: fresh && (!live[0] || seen[0]) && (!live[1] || seen[1]) && (!live[2] || seen[2]) && (!live[3] || seen[3]) -> fresh = 0
  :: else
  fi
}

inline finish() {       /* reply.finish: of contention only what is so when the script ends is told */
  open_settled(); serve_all();
  j = 0;
  do :: j < NS -> if :: nrec[j] && !CONTENTION(j) -> nrec[j] = 0; look_who_waits(j) :: else fi; j++ :: else -> break od;
  j = 0; was = 0
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
  if :: epoch && !same_run -> begin_epoch(INTERVAL) :: else fi;
#endif
  take_piece()
}

/* ======== open.lua ======== */

#define LIVED(c) (mep[c] != 0)
#define OTHERS_LISTEN (sub[0] || sub[1])
inline longest_of(c) {  /* for how long grants wait where sessions may live that are not known */
#ifdef LEASES
  if :: LONGEST(c) -> lease = LONG :: else -> lease = TIMEOUT fi
#else
  lease = TIMEOUT
#endif
}

inline open_(c) {
  begin();
  me = ms[c];
  was = (LIVED(c) && mep[c] != epoch);                      /* lost */
  x = (LIVED(c) && !live[me] && !live[me ^ 1]);             /* lapsed: none of the ids that it replaces is here */
  if
  :: epoch == 0 ->
     lossy = 1;
     HEARS(BRINGS_LONG(c) || CHANNELS_TELL_LONG); longest_of(c);
#ifdef NO_HOLD          /* a newcomer is granted at once where there is no data */
     begin_epoch(0);
#else
#ifdef OLD_SERVER       /* no hold for a newcomer where the server has been up for long */
     if :: LIVED(c) || OTHERS_LISTEN -> skip :: else -> lease = (young -> INTERVAL : 0) fi;
#else
     if :: LIVED(c) || OTHERS_LISTEN -> skip :: else -> lease = INTERVAL fi;
#endif
     begin_epoch(lease);
#endif
     fresh = 0          /* no limits yet: this session brings them */
  :: epoch != 0 && x && was ->
     HEARS(BRINGS_LONG(c)); longest_of(c);
     if :: mep[c] > epoch -> begin_epoch(lease) :: else fi;
#ifndef NO_STALE_SHUT
     if :: !HAS_GROWN && shut < lease -> shut = lease :: else fi
#else
     skip
#endif
  :: epoch != 0 && x && !was && !passed[OWNER(me)] ->
     HEARS(BRINGS_LONG(c)); longest_of(c);
     begin_epoch(lease); was = 1
  :: epoch != 0 && !x && was -> HEARS(BRINGS_LONG(c))
  :: else
  fi;
  if :: mstart[c] :: else -> end_session((me ^ 1)) fi;
  end_session(me);
  live[me] = 1;
#ifndef NO_RESTATING
  base[me] = mn[c];
#endif
  seen[me] = (LIVED(c) && !was);
  was = 0; x = 0; lease = 0;
  finish();
  st = OK
}

/* ======== sync.lua ======== */

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
     if :: epoch == mep[c] && live[me] && ss[me] < mcf[c] -> begin_epoch(INTERVAL) :: else fi;
#endif
     if
     :: !SAME_EPOCH(c) || !live[me] -> st = CLOSED
     :: SAME_EPOCH(c) && live[me] && OLD_NUMBER(c) -> st = STALE
     :: else ->
        st = OK; ss[me] = 1; seen[me] = 1;
        if
        :: mset[c] ->
           base[me] = mn[c];
#ifdef NO_GRANT_NUMBER  /* it removes units of grants that it couldn't know of */
           gb[me] = gl[me]
#else
           gb[me] = mg[c];
           if :: gl[me] < gb[me] -> gl[me] = gb[me] :: else fi
#endif
        :: else
        fi;
#ifdef NO_ROOM_LESS_GRANTS
        room[me] = mroom[c];
#else
        room[me] = (mroom[c] && gl[me] <= mg[c]);
#endif
        x = (mwant[c] && gl[me] <= mg[c]);                  /* a grant that it doesn't know is its request's */
        if
        :: want[me] && !x -> want[me] = 0; if :: LINE_EMPTY -> flag = 0 :: else fi
        :: else
        fi;
        open_settled(); serve_all();
        if
        :: x && !want[me] && gl[me] <= mg[c] ->             /* serving.ask */
           if
           :: HAS_UNIT && room[me] && gl[me] < TOP -> grant(me)
           :: else -> want[me] = 1; contend(me)
           fi
        :: else
        fi;
        x = 0;
        finish()
     fi
  fi
}

/* ======== heartbeat.lua ======== */

#ifdef NO_BEAT_EPOCH    /* nor what goes with a new one */
#define SETTLED(c) 1
#else
#define SETTLED(c) (epoch == mep[c] && shut == 0 && !fresh)
#endif
#ifdef NO_BEAT_NUMBERS
#define KNOWS(c) 1
#else
#define KNOWS(c) (ss[me] >= mcf[c] && gl[me] == mg[c])
#endif
#ifdef NO_BEAT_CONTENTION
#define RECALLS(s) 0
#else
#define RECALLS(s) (UNITS(s) && CONTENTION(s))
#endif
#define HAS_REST(s) (!live[s] && (UNITS(s) || want[s]))
#define BEGINS (!same_run || HAS_REST(0) || HAS_REST(1) || HAS_REST(2) || HAS_REST(3))

inline heartbeat(c) {   /* where all is as the session says; or else it changes nothing */
  me = ms[c];
  if
  :: epoch && live[me] && !OLD_NUMBER(c) && SETTLED(c) && !BEGINS &&
     KNOWS(c) && !RECALLS(me) ->
#if !defined(INSTANT) || !defined(DELAYED)     /* (with both, an older sync may be executed after a later one) */
     assert(UNITS(me) == mn[c] && !want[me]);  /* so two numbers stand for all that was told */
#endif
     st = OK; ss[me] = 1; room[me] = mroom[c]
  :: else -> st = MORE
  fi
}

inline no_data() {
  epoch = 0; shut = 0; fresh = 0; grown = 0; flag = 0; same_run = 1; lossy = 1;
#ifdef LEASES
  hears = 0;
#endif
  end_session(0); end_session(1); end_session(2); end_session(3)
}
