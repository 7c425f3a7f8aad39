"""A shelf of disks without hardware: a SCSI enclosure with disks, which the kernel's own drivers attach.

    unit         what every logical unit does: INQUIRY, sense data, unit attentions
    disk         a disk in memory
    enclosure    an enclosure services device (SES-3), with pages of its own making
    ring         the ring in shared memory over which the kernel's target_core_user asks a program
    configfs     makes devices of target_core_user, and attaches them to a SCSI host of tcm_loop
    shelf        all of it together: disks are plugged into slots, pulled and moved

The pages are made here, and not by meshfs.ses, so that a mistake there cannot hide itself. The module needs a kernel
with target_core_user and tcm_loop, as the guest has it, and root.
"""
