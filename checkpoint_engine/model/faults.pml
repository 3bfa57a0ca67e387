/* Leases that run out, and whatever hurts. */

inline kill(m) {
  end_processes(m);
  state[m] = S_ENDED;
  if
  :: lease[m] == ALIVE -> lease[m] = LEFT_BEHIND
  :: else -> epoch[m] = 0; status[m] = BUSY
  fi;
  step[m] = 0;
  if
  :: IS_TRAINER(m) ->
     if :: shard[AT(POD(m), 1)] == REGISTERED -> shard[AT(POD(m), 1)] = REGISTERED_BY_THE_DEAD :: else -> skip fi;
     if :: shard[AT(POD(m), 2)] == REGISTERED -> shard[AT(POD(m), 2)] = REGISTERED_BY_THE_DEAD :: else -> skip fi
  :: else -> skip
  fi
}

inline drop_lease(m) {
  lease[m] = GONE;
  if :: IS_TRAINER(m) -> drop_shards(POD(m)) :: else -> skip fi
}

inline forget_the_dead(p) {
  if :: shard[AT(p, 1)] == REGISTERED_BY_THE_DEAD -> shard[AT(p, 1)] = NONE :: else -> skip fi;
  if :: shard[AT(p, 2)] == REGISTERED_BY_THE_DEAD -> shard[AT(p, 2)] = NONE :: else -> skip fi;
  if :: lease[TRAINER(p)] == LEFT_BEHIND -> lease[TRAINER(p)] = GONE; epoch[TRAINER(p)] = 0; status[TRAINER(p)] = BUSY :: else -> skip fi
}

#define ALL_DONE (at[1] == FINISHED || at[2] == FINISHED)
/* A server that fails after the last switch is complete waits for another word, which does not come here; one that starts
 * anew while there is no master does so, too.
 */
#define IS_SETTLED(p) ((answers[p] && bound[p] == 2) || state[SERVER(p)] == S_FAILED)
#define LEFT_KEYS(p) (lease[TRAINER(p)] == LEFT_BEHIND || shard[AT(p, 1)] == REGISTERED_BY_THE_DEAD || shard[AT(p, 2)] == REGISTERED_BY_THE_DEAD)

proctype Leases() {
end:
  do
  :: d_step { LEFT_KEYS(0) -> forget_the_dead(0) }
  :: d_step { LEFT_KEYS(1) -> forget_the_dead(1) }
  :: d_step { lease[1] == LEFT_BEHIND -> lease[1] = GONE; epoch[1] = 0; status[1] = BUSY }
  :: d_step { lease[3] == LEFT_BEHIND -> lease[3] = GONE; epoch[3] = 0; status[3] = BUSY }
  :: d_step { master_key != NOBODY && at[master_key] == DEAD -> master_key = NOBODY }
  :: ALL_DONE && timeout -> break
  od;
  not_at_rest = master_key != NOBODY && (!IS_SETTLED(0) || !IS_SETTLED(1));
  assert(!not_at_rest)
}

/* The pods are alike: the first fault of a run is in pod 0. */
#define MAY_HURT(m) (IS_UP(m) && (faults < FAULTS || POD(m) == 0))
#define SERVER_MAY_HAVE_LOOKED(p) (verified[p] || bound[p] != 0)

#define HURT(m) \
  :: d_step { KILLS && MAY_HURT(m) -> kill(m) } \
  :: d_step { LOST_LEASES && MAY_HURT(m) && lease[m] == ALIVE && state[m] != S_REJOINING -> drop_lease(m) } \
  :: d_step { LOST_LEASES && MAY_HURT(m) && lease[m] == ALIVE && state[m] == S_REJOINING -> drop_lease(m); who = m; event = E_LEASE_LOST } \
  :: ENDED_CHILDREN && MAY_HURT(m) && HEEDS(m, CHILD_ENDED) -> who = m; event = E_CHILD_ENDED \
  :: ENDED_CHILDREN && MAY_HURT(m) && HEEDS(m, CRASH_LOOP) -> who = m; event = E_CRASH_LOOP \
  :: ERRORS && MAY_HURT(m) && HEEDS(m, ERROR) -> who = m; event = E_ERROR \
  :: LATE && MAY_HURT(m) && HEEDS(m, DEADLINE) -> who = m; event = E_DEADLINE \
  :: STOPS && MAY_HURT(m) && HEEDS(m, TERMINATED) -> who = m; event = E_TERMINATED

#define HARM(p, g) \
  :: d_step { DAMAGE && (faults < FAULTS || p == 0) && segment[AT(p, g)] == WHOLE && !SERVER_MAY_HAVE_LOOKED(p) -> \
     segment[AT(p, g)] = DAMAGED_UNNOTICED }
#define FIRST_MASTER_REIGNS (at[1] != TO_BE_ELECTED && at[1] != FINISHED && at[1] != DEAD && master_key == 1)

proctype Faults() {
  byte event = NO_EVENT;
  byte who = 0;
end:
  do
  :: atomic {
       faults > 0 && !ALL_DONE;
       if
       HURT(0)
       HURT(1)
       HURT(2)
       HURT(3)
       HARM(0, 1)
       HARM(0, 2)
       HARM(1, 1)
       HARM(1, 2)
       :: d_step { MASTERS && FIRST_MASTER_REIGNS -> at[1] = DEAD }
       :: d_step { MASTERS && FIRST_MASTER_REIGNS -> master_key = NOBODY }
       :: faults = 1
       fi;
       d_step { faults--; carry_out(who, event) };
       d_step { a_stale_word_changes_nothing(who); who = 0 }
     }
  od
}
