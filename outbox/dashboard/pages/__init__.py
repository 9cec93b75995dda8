"""The pages and acts of the dashboard, by their path below it."""

from outbox.dashboard.page import Act, Tab, View
from outbox.dashboard.pages import audit, bulk, failures, overview, processes, queues, schedules, task, tasks

__all__ = ["ACTS", "TABS", "VIEWS"]

TABS = (
    Tab("Overview", "/", "pulse"),
    Tab("Tasks", "/tasks", "list"),
    Tab("Failures", "/failures", "bolt"),
    Tab("Queues", "/queues", "stack"),
    Tab("Schedules", "/schedules", "clock"),
    Tab("Processes", "/processes", "chip"),
    Tab("Bulk acts", "/bulk", "many"),
    Tab("Audit", "/audit", "book"),
)

VIEWS: dict[str, View] = {
    "/": overview.show,
    "/tasks": tasks.show,
    "/tasks/{id}": task.show,
    "/tasks/{id}/edit": task.edit,
    "/failures": failures.show,
    "/failures/{failure}": failures.show_one,
    "/queues": queues.show,
    "/schedules": schedules.show,
    "/schedules/{name:path}": schedules.show_one,
    "/processes": processes.show,
    "/bulk": bulk.show,
    "/bulk/new": bulk.new,
    "/bulk/{id}": bulk.show_one,
    "/audit": audit.show,
}

ACTS: dict[str, Act] = {
    "/tasks/retry": Act("operator", tasks.retry),
    "/tasks/cancel": Act("operator", tasks.cancel),
    "/tasks/{id}/retry": Act("operator", task.retry),
    "/tasks/{id}/cancel": Act("operator", task.cancel),
    "/tasks/{id}/reschedule": Act("operator", task.reschedule),
    "/tasks/{id}/edit": Act("admin", task.edit_and_retry),
    "/bulk": Act("operator", bulk.begin),
    "/bulk/{id}/abort": Act("operator", bulk.abort),
    "/queues/{name:path}/pause": Act("operator", queues.pause),
    "/queues/{name:path}/resume": Act("operator", queues.resume),
    "/schedules/{name:path}/run": Act("operator", schedules.run),
    "/schedules/{name:path}/pause": Act("operator", schedules.pause),
    "/schedules/{name:path}/resume": Act("operator", schedules.resume),
}
