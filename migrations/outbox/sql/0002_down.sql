drop table outbox.lane;
