-- What limits a lane beyond the limit of its tasks: a row for each lane that is held now.
create table outbox.lane (
    name text primary key,
    held_until timestamptz not null,
    places integer,
    constraint lane_places check (places > 0)
);
