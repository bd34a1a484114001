/* Part of session.pml: what the scripts do. */

/* ======== core/*.lua ======== */

inline end_session(s) { /* sessions.finish */
  live[s] = 0; seen[s] = 0; ss[s] = 0; gr[s] = 0; room[s] = 0; hold[s] = 0; line[s] = 0;
  j = 0;
  do :: j < K -> g[s * K + j] = 0; j++ :: else -> break od;
  if :: LINE_EMPTY -> flag = 0 :: else fi
}

#ifdef PIECES           /* what it holds is taken away by the scripts to come, one permit in each (scripts.py: WORK) */
inline end_session_soon(s) {
  live[s] = 0; seen[s] = 0; ss[s] = 0; gr[s] = 0; room[s] = 0; line[s] = 0;
  if :: LINE_EMPTY -> flag = 0 :: else fi
}

inline take_piece() {
#ifndef NO_REST
  j = 0;
  do
  :: j < NS * K && !live[j / K] && (hold[j / K] & BIT(j % K)) -> hold[j / K] = hold[j / K] & ~BIT(j % K); g[j] = 0; break
  :: j < NS * K && (live[j / K] || !(hold[j / K] & BIT(j % K))) -> j++
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
        if :: hold[j] && j != me && (was || j != s) && sub[OWNER(j)] && cur[OWNER(j)] == (j & 1) -> nrec[j] = 1 :: else fi;
#endif
        j++
     :: else -> break
     od
  fi
}

inline open_settled() {
  if
  :: fresh && (!live[0] || seen[0]) && (!live[1] || seen[1]) && (!live[2] || seen[2]) && (!live[3] || seen[3]) -> fresh = 0
  :: else
  fi
}

inline finish() {       /* a recall is told only if there is still reason when the script ends */
  open_settled(); serve_all();
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
#ifdef NO_LISTENERS     /* nobody looks who listens, nor who has lived */
     begin_epoch(INTERVAL);
#else
#ifdef OLD_SERVER       /* no hold for a newcomer where the server has been up for long */
     if :: LIVED(c) || OTHERS_LISTEN -> skip :: else -> lease = (young -> INTERVAL : 0) fi;
     begin_epoch(lease);
#else
     if :: LIVED(c) || OTHERS_LISTEN -> skip :: else -> lease = INTERVAL fi;
     begin_epoch(lease);
#endif
#endif
#endif
     fresh = 0          /* no limits yet: this session brings them */
  :: epoch != 0 && x && was ->
     HEARS(BRINGS_LONG(c)); longest_of(c);
#ifndef NO_LATER_EPOCH
     if :: mep[c] > epoch -> begin_epoch(lease) :: else fi;
#endif
#ifndef NO_STALE_SHUT
     if :: !HAS_GROWN && shut < lease -> shut = lease :: else fi
#else
     skip
#endif
  :: epoch != 0 && x && !was && !passed[OWNER(me)] ->
     HEARS(BRINGS_LONG(c)); longest_of(c);
#ifndef NO_STANDING_LEASE
     begin_epoch(lease); was = 1
#else
     skip
#endif
  :: epoch != 0 && !x && was -> HEARS(BRINGS_LONG(c))
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
  was = 0; x = 0; lease = 0;
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
        open_settled(); serve_all();
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

inline no_data() {
  epoch = 0; shut = 0; fresh = 0; grown = 0; flag = 0; same_run = 1; lossy = 1;
#ifdef LEASES
  hears = 0;
#endif
  end_session(0); end_session(1); end_session(2); end_session(3)
}
