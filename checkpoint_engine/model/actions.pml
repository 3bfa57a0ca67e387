/* What a row of the tables does: to the pod, the member and what others see of it. */

#define IS_UP(m) (state[m] != S_ENDED)

inline give_back(p, holder) {
  if
  :: token[p] == holder -> token[p] = NOBODY
  :: else -> skip
  fi
}

inline end_ranks(p) {
  if
  :: ranks[p] != DOWN && ranks[OTHER(p)] >= MET -> partner_gone[OTHER(p)] = true
  :: else -> skip
  fi;
  ranks[p] = DOWN; partner_gone[p] = false; holds[p] = 0; writing[p] = false;
  device[TRAINER(p)] = false;
  give_back(p, TRAINERS)
}

inline free_server(p) {
  answers[p] = false; bound[p] = 0; verified[p] = false;
  device[SERVER(p)] = false
}

inline drop_shards(p) {
  if :: shard[AT(p, 1)] == REGISTERED -> shard[AT(p, 1)] = NONE :: else -> skip fi;
  if :: shard[AT(p, 2)] == REGISTERED -> shard[AT(p, 2)] = NONE :: else -> skip fi
}

inline end_processes(m) {
  if
  :: IS_TRAINER(m) -> end_ranks(POD(m))
  :: else -> free_server(POD(m)); give_back(POD(m), SERVERS)
  fi
}

/* What has to be done on the way into a state, before its action takes its time. */
inline begin_action(m) {
  if
  :: IS_TRAINER(m) -> writing[POD(m)] = false
  :: else -> skip
  fi;
  if
  :: action == A_RESTART ->
     epoch[m] = 0; step[m] = 0;
     end_processes(m);
     if :: IS_TRAINER(m) -> ranks[POD(m)] = MEETING :: else -> skip fi;
     if :: lease[m] == GONE -> lease[m] = ALIVE :: else -> skip fi
  :: action == A_REJOIN ->
     epoch[m] = 0; step[m] = 0;
     if :: IS_TRAINER(m) -> skip :: else -> end_processes(m) fi
  :: action == A_PREPARE -> end_processes(m)
  :: action == A_FAIL ->
     if
     :: IS_TRAINER(m) -> skip
     :: else -> end_processes(m)
     fi
  :: action == A_LOAD -> device[m] = true
  :: action == A_REVIVE -> answers[POD(m)] = false
  :: action == A_END ->
     end_processes(m);
     epoch[m] = 0; step[m] = 0; lease[m] = GONE;
     if :: IS_TRAINER(m) -> drop_shards(POD(m)) :: else -> skip fi
  :: else -> skip
  fi
}

#define ON_TARGET(m) ((IS_TRAINER(m) && IS_INFER(step[m]) && state[m] == S_IDLE) \
  || (IS_TRAINER(m) && !IS_INFER(step[m]) && state[m] == S_TRAINING) \
  || (!IS_TRAINER(m) && IS_INFER(step[m]) && state[m] == S_SERVING) \
  || (!IS_TRAINER(m) && !IS_INFER(step[m]) && state[m] == S_IDLE))

inline report(m) {
  if
  :: state[m] == S_FAILED -> status[m] = BROKEN_OFF
  :: state[m] != S_FAILED && epoch[m] != 0 && ON_TARGET(m) -> status[m] = ARRIVED
  :: else -> status[m] = BUSY
  fi
}

inline look_up(m, e) {
  if
  :: IS_TRAINER(m) -> look_up_train(state[m], e)
  :: else -> look_up_rollout(state[m], e)
  fi;
  not_in_the_table = action == A_NOT_IN_TABLE;
  assert(!not_in_the_table)
}

/* One row of the table is carried out. NO_EVENT: what has happened is none of the table's business. */
inline carry_out(m, e) {
  if
  :: e == NO_EVENT -> skip
  :: else ->
     look_up(m, e);
     if
     :: action == A_KEEP_ON -> skip
     :: else -> begin_action(m); state[m] = next; report(m)
     fi
  fi;
  check();
  e = NO_EVENT
}

/* A word that is not newer, or that has no living master behind it, may come in every state. */
inline a_stale_word_changes_nothing(m) {
  if
  :: IS_UP(m) ->
     look_up(m, E_STALE);
     idempotence_broken = action != A_KEEP_ON || next != state[m];
     assert(!idempotence_broken)
  :: else -> skip
  fi
}

#define HEEDS(m, kind) ((IS_TRAINER(m) && HEEDS_train_##kind(state[m])) || (!IS_TRAINER(m) && HEEDS_rollout_##kind(state[m])))
#define HEEDS_WORD(m, s) ((IS_INFER(s) && HEEDS(m, INFER)) || (!IS_INFER(s) && HEEDS(m, TRAIN)))
#define IS_NEWER(m, e) ((e) > epoch[m] || (EPOCHS_NOT_COMPARED && epoch[m] != 0 && (e) != 0))
#define MAY_ACT_ON(m, e, s) ((e) != 0 && IS_NEWER(m, e) && master_key != NOBODY && HEEDS_WORD(m, s))

inline take_up(m, e, s) {
  idempotence_broken = e <= epoch[m];
  assert(!idempotence_broken);
  epoch[m] = e; step[m] = s;
  event = (IS_INFER(s) -> E_INFER : E_TRAIN)
}
