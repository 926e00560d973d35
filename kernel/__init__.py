"""The kernel: events, an ordered log, deciding, reacting, leases, and how to find extensions.

A *command* meets the folded state of an image's *stream*; `decide` answers with
*events* or refuses; `append` records them together with the rows that follow.
The *reactor* asks `outstanding` what each image still needs, takes a *lease* and
has the *runner* do it, whose outcomes are commands again.  *Consumers* read the
log from their *checkpoints*: the projector for slow read models, the dispatcher
for notifications.  The kernel knows no store, no import method, no sink and no
transport by name: they come in through the doors in `kernel/extend/`.
"""
