/* Trainers and servers: what they wait for, and how long their actions take (any time). */

/* A member that joins has no lease and has not lost one. */
#define MUST_REJOIN(m) (lease[m] == GONE && HEEDS(m, LEASE_LOST) && state[m] != S_REJOINING)

inline boot(m) {
  state[m] = S_STARTING; lease[m] = ALIVE; epoch[m] = 0; step[m] = 0;
  if :: IS_TRAINER(m) -> ranks[POD(m)] = MEETING :: else -> skip fi;
  report(m)
}

#define G generation
#define WANTED(m) GENERATION(step[m])

#define IS_AT(m, s) (state[m] == s)
#define IS_FREE_FOR(p, holder) (token[p] == NOBODY || token[p] == holder)
#define MUST_WRITE(p) (segment[AT(p, WANTED(TRAINER(p)))] == DAMAGED || (WRITES_AGAIN && holds[p] == WANTED(TRAINER(p))))
#define MUST_RESTORE(p) (!writing[p] && MUST_WRITE(p) && holds[p] != WANTED(TRAINER(p)) && checkpoint >= WANTED(TRAINER(p)))
#define NO_LIFE_CHANGED (!partner_gone[0] && !partner_gone[1])
#define ALL_MEET (ranks[0] == MEETING && ranks[1] == MEETING && lease[0] != GONE && lease[2] != GONE && NO_LIFE_CHANGED)
#define CAN_BUILD(p) (ranks[p] == BUILT || (!BUILDS_TOGETHER && ranks[p] == MET))
#define HAS_SHARD(p, m) (shard[AT(p, WANTED(m))] != NONE && (shard_epoch[p] >= epoch[m] || SHARDS_OF_ANY_EPOCH))

inline register_shard(p, g, for_epoch) {
  if
  :: lease[TRAINER(p)] == ALIVE || EXPORTS_WITHOUT_LEASE ->
     fencing_broken = lease[TRAINER(p)] != ALIVE;
     assert(!fencing_broken);
     shard[AT(p, g)] = REGISTERED; shard_epoch[p] = for_epoch; event = E_DONE
  :: else -> event = E_ERROR       /* the registry refuses keys of a lease that has gone */
  fi
}

#define IS_SOUND(p, g) (segment[AT(p, g)] == WHOLE || (TRUSTS_ITS_SEGMENT && segment[AT(p, g)] != DAMAGED))

/* A trainer that starts or rejoins registers what its segments hold; for no word. */
inline restore(p) {
  event = E_DONE;
  if :: IS_SOUND(p, 1) -> register_shard(p, 1, 0) :: else -> skip fi;
  if :: IS_SOUND(p, 2) -> register_shard(p, 2, 0) :: else -> skip fi
}

inline build(p) {
  ranks[p] = BUILT; device[TRAINER(p)] = true; holds[p] = checkpoint
}

/* The ranks of both pods, where each pod meets the other one only when it builds. */
inline build_together() {
  if
  :: ALL_MEET && token[0] == TRAINERS && token[1] == TRAINERS -> build(0); build(1)
  :: else -> skip
  fi
}

inline export(p) {
  G = WANTED(TRAINER(p));
  if
  :: writing[p] -> writing[p] = false; segment[AT(p, G)] = WHOLE; register_shard(p, G, epoch[TRAINER(p)])
  :: !writing[p] && !MUST_WRITE(p) ->
     if :: segment[AT(p, G)] == DAMAGED_UNNOTICED && !TRUSTS_ITS_SEGMENT -> segment[AT(p, G)] = DAMAGED :: else -> skip fi;
     register_shard(p, G, epoch[TRAINER(p)])
  :: !writing[p] && MUST_WRITE(p) && holds[p] == G -> writing[p] = true; segment[AT(p, G)] = DAMAGED
  :: !writing[p] && MUST_WRITE(p) && holds[p] != G && checkpoint < G -> event = E_ERROR
  :: else -> build(p); holds[p] = G   /* the token is ours */
  fi
}

inline reload(p) {
  G = WANTED(TRAINER(p));
  if
  :: ranks[p] != BUILT -> build(p)
  :: else -> device[TRAINER(p)] = true
  fi;
  if
  :: holds[p] == G || segment[AT(p, G)] == WHOLE || checkpoint >= G -> holds[p] = G; event = E_DONE
  :: else -> event = E_ERROR
  fi
}

inline rejoined(m) {
  if
  :: IS_TRAINER(m) -> restore(POD(m))
  :: else -> event = E_DONE
  fi
}

/* What comes from outside. */
#define EVENTS_OF_ALL(m) \
  :: d_step { state[m] == S_ENDED -> boot(m) } \
  :: d_step { MAY_ACT_ON(m, desired_epoch, desired_step) -> take_up(m, desired_epoch, desired_step) } \
  :: d_step { desired_epoch > 1 && MAY_ACT_ON(m, desired_epoch - 1, previous_step) -> take_up(m, desired_epoch - 1, previous_step) } \
  :: d_step { IS_UP(m) && MUST_REJOIN(m) -> event = E_LEASE_LOST } \
  :: HEEDS(m, DEADLINE) && timeout -> event = E_DEADLINE \
  :: d_step { state[m] == S_REJOINING && lease[m] == GONE -> lease[m] = ALIVE } \
  :: d_step { state[m] == S_REJOINING && lease[m] == ALIVE -> rejoined(m) }

proctype Trainer(byte p; byte m) {
  byte event = NO_EVENT;
end:
  do
  :: atomic {
       if
       EVENTS_OF_ALL(m)
       :: partner_gone[p] && HEEDS(m, CHILD_ENDED) -> event = E_CHILD_ENDED
       /* Start: the ranks meet, which takes no devices; where these are free, the model is built. */
       :: d_step { IS_AT(m, S_STARTING) && !BUILDS_TOGETHER && ALL_MEET -> ranks[0] = MET; ranks[1] = MET }
       :: d_step { IS_AT(m, S_STARTING) && !BUILDS_TOGETHER && ranks[p] == MET && IS_FREE_FOR(p, TRAINERS) ->
            token[p] = TRAINERS; build(p) }
       :: d_step { IS_AT(m, S_STARTING) && (ranks[p] == BUILT || (token[p] == SERVERS && (ranks[p] == MET || BUILDS_TOGETHER))) -> restore(p) }
       :: d_step { BUILDS_TOGETHER && IS_AT(m, S_STARTING) && ranks[p] == MEETING && token[p] == NOBODY -> token[p] = TRAINERS; build_together() }
       :: d_step { BUILDS_TOGETHER && IS_AT(m, S_EXPORTING) && ranks[p] == MEETING && MUST_RESTORE(p) && token[p] == NOBODY -> token[p] = TRAINERS; build_together() }
       :: IS_AT(m, S_DRAINING) -> event = E_DONE
       :: d_step { IS_AT(m, S_EXPORTING) && !MUST_RESTORE(p) -> export(p) }
       :: d_step { IS_AT(m, S_EXPORTING) && MUST_RESTORE(p) && IS_FREE_FOR(p, TRAINERS) && CAN_BUILD(p) -> token[p] = TRAINERS; export(p) }
       :: d_step { IS_AT(m, S_OFFLOADING) && (!TOKEN_BEFORE_DEVICES || token[p] != TRAINERS) ->
            device[m] = false; give_back(p, TRAINERS); event = E_DONE }
       :: d_step { IS_AT(m, S_OFFLOADING) && TOKEN_BEFORE_DEVICES && token[p] == TRAINERS -> token[p] = NOBODY }
       :: d_step { IS_AT(m, S_TAKING) && IS_FREE_FOR(p, TRAINERS) -> token[p] = TRAINERS; event = E_DONE }
       :: d_step { BUILDS_TOGETHER && IS_AT(m, S_RELOADING) && ALL_MEET && token[0] == TRAINERS && token[1] == TRAINERS -> build_together() }
       :: d_step { IS_AT(m, S_RELOADING) && CAN_BUILD(p) -> reload(p) }
       /* The end of a batch: what was learnt goes into the idle segment before the master hears of it. */
       :: d_step { IS_AT(m, S_TRAINING) && holds[p] == 2 && segment[AT(p, 2)] != WHOLE -> segment[AT(p, 2)] = WHOLE }
       fi;
       d_step { carry_out(m, event) };
       d_step { a_stale_word_changes_nothing(m) }
     }
  od
}

proctype Server(byte p; byte m) {
  byte event = NO_EVENT;
end:
  do
  :: atomic {
       if
       EVENTS_OF_ALL(m)
       :: IS_AT(m, S_STARTING) || IS_AT(m, S_PREPARING) -> event = E_DONE
       :: d_step { IS_AT(m, S_GATHERING) && (BINDS_TOO_EARLY || HAS_SHARD(p, m)) ->
            verified[p] = segment[AT(p, WANTED(m))] == WHOLE; event = E_DONE }
       :: d_step { IS_AT(m, S_TAKING) && IS_FREE_FOR(p, SERVERS) -> token[p] = SERVERS; event = E_DONE }
       :: IS_AT(m, S_LOADING) && !verified[p] && !BINDS_TOO_EARLY -> event = E_ERROR
       :: d_step { IS_AT(m, S_LOADING) && (BINDS_TOO_EARLY || (verified[p] && published == WANTED(m))) ->
            one_generation_broken = published != WANTED(m);
            assert(!one_generation_broken);
            verified[p] = false; bound[p] = WANTED(m); answers[p] = true; event = E_DONE }
       :: d_step { IS_AT(m, S_REVIVING) -> answers[p] = true; event = E_DONE }
       :: d_step { IS_AT(m, S_ABORTING) -> answers[p] = false; event = E_DONE }
       :: d_step { IS_AT(m, S_STOPPING) -> free_server(p); give_back(p, SERVERS); event = E_DONE }
       fi;
       d_step { carry_out(m, event) };
       d_step { a_stale_word_changes_nothing(m) }
     }
  od
}
