drop table outbox.audit, outbox.fire, outbox.schedule, outbox.worker, outbox.queue, outbox.dead, outbox.history, outbox.task;
drop function outbox.take_place();
drop function outbox.keep_partitions(integer);
drop sequence outbox.position;
