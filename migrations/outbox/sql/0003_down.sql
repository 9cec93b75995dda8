drop table outbox.bulk;
drop index outbox.dead_failure;
drop index outbox.history_finished;
drop table outbox.quarter;
drop table outbox.minute;
