/*
 * A limit set at run time where none was: what already runs under it is counted before anyone is granted.
 *
 * One worker with its two threads, the gate's and the link's, and another session that states at some moment. Two tasks
 * that the new limit covers start at the worker, at any moment; so its cache of coverings, its table, the statement and
 * the answer interleave in every way that CPython allows: a step here is one bytecode that reads or writes.
 */
#define VERSION 1       /* of the table that has the limit; 0: of the one before */
#define NOTHING 0       /* a task: not here */
#define UNCOVERED 1     /* runs, and no limit covers it as far as the worker knows */
#define COVERED 2       /* runs, and is to be adopted */
#define ADOPTED 3       /* runs with a permit that the worker made for it */

/* Redis */
byte version = 0;
bit fresh = 0, is_set = 0;
bit live = 1, lapsing = 1, other_seen = 0;
byte seen = 0;
bit held[2];
bit settled = 0;        /* ghost: the limit was opened while the worker's session lived */

/* the worker */
byte table = 0;         /* Book.table, by its version */
byte cache[2];          /* LimitTable.covering, what each remembers: 0 no answer, 1 uncovered, 2 covered */
byte task[2];
bit lock = 0;
bit opened_ = 1;

#define UNCOUNTED(i) (task[i] != NOTHING && !held[i])

inline open_settled() {
  if
  :: fresh && other_seen && (!live || seen >= VERSION) ->
     fresh = 0;
     if :: live -> settled = 1 :: else fi;
     assert(!(live && (UNCOUNTED(0) || UNCOUNTED(1))))      /* uncounted */
  :: else
  fi
}

/* Book.covering: without the lock */
inline covering(answer) {
  atomic { known = table; answer = cache[known] };
  if
  :: answer == 0 ->
#ifdef CACHE_APART      /* before the model: the answers were kept beside the table, and looked up after it */
     atomic { cache[table] = 1 + known; answer = 1 + known }
#else
     atomic { cache[known] = 1 + known; answer = 1 + known }
#endif
  :: else
  fi
}

proctype Gate() {       /* admit: two requests, one after the other */
  byte i, known, answer;
  do
  :: i < 2 ->
     covering(answer);
     atomic { lock == 0 -> lock = 1 };
#ifndef NO_SECOND_LOOK  /* Ledger.start_uncovered and wait look again, with the lock */
     covering(answer);
#endif
     atomic {
       if
       :: answer == 1 ->
          task[i] = UNCOVERED;
          assert(!(settled && live && !fresh))              /* uncounted: it starts though the limit is open */
       :: else              /* it is parked, and starts with a permit of its own */
       fi;
       lock = 0; answer = 0; known = 0; i++
     }
  :: else -> break
  od
}

proctype End(byte i) {
  atomic { task[i] != NOTHING && lock == 0 -> task[i] = NOTHING }
}

inline set_table() {    /* Ledger._set_table */
  atomic { lock == 0 -> lock = 1 };
  table = VERSION;
  i = 0;
  do
  :: i < 2 ->
     if
     :: task[i] == UNCOVERED -> covering(answer); if :: answer == 2 -> task[i] = COVERED :: else fi
     :: else
     fi;
     i++
  :: else -> break
  od;
  atomic { lock = 0; answer = 0; known = 0; i = 0 }
}

inline statement() {    /* Exchange.collect, Ledger.holdings: Started.adopt */
  atomic {
    lock == 0;
    if :: task[0] == COVERED -> task[0] = ADOPTED :: else fi;
    if :: task[1] == COVERED -> task[1] = ADOPTED :: else fi;
    states[0] = (task[0] == ADOPTED); states[1] = (task[1] == ADOPTED);
    by = table;
#ifdef NOTHING_IS_A_STATEMENT
    runs = (task[0] != NOTHING || task[1] != NOTHING)
#endif
  }
}

proctype Link() {
  byte i, known, answer, by, told;
  bit states[2], runs;
  do
  :: opened_ ->
     statement();
     atomic {
       if
       :: live ->
          seen = by; told = version;
          held[0] = (states[0] && task[0]); held[1] = (states[1] && task[1]);
          open_settled()
       :: else -> opened_ = 0
       fi;
       states[0] = 0; states[1] = 0; by = 0
     };
     if :: opened_ && told != table -> set_table() :: else fi
  :: !opened_ ->
     statement();
     atomic {
       live = 1; told = version;
       held[0] = (states[0] && task[0]); held[1] = (states[1] && task[1]);
#ifdef NOTHING_IS_A_STATEMENT /* before the model: who runs nothing under the limits it knows has stated by any version */
       seen = (runs -> by : version);
#else
       seen = by;
#endif
       open_settled();
       states[0] = 0; states[1] = 0; by = 0; runs = 0
     };
     if :: told != table -> set_table() :: else fi;
     opened_ = 1
  od
}

proctype Others() {
  bit running;
  do
  :: atomic { !is_set -> is_set = 1; version = VERSION; fresh = 1; open_settled() }                    /* change.lua */
  :: atomic { is_set && !other_seen -> other_seen = 1; open_settled() }
  :: atomic { lapsing && live && seen == 0 -> lapsing = 0; live = 0; held[0] = 0; held[1] = 0; open_settled() } /* its lease ends */
  :: !is_set -> skip
  od
}

init { atomic { run Gate(); run End(0); run End(1); run Link(); run Others() } }

#ifdef LIVENESS
ltl opened_at_last { [] (fresh -> <> !fresh) }
#endif
