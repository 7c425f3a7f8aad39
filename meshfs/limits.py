"""Every limit of meshfs in one place, with the reason for its value.

The last word of a name is the unit, if the limit has one. Only LIMIT_IOPS_* and LIMIT_BYTES_PER_S_* are named like
their keys in the config. No peer can make meshfs use more than these limits. A request that asks for more gets the
status that MS-SMB2 defines for it, or ends the connection.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- frames (exporter and initiator) -------------------------------------------------

# The payload of one READ or WRITE. Windows and smbd offer 8 MiB as well.
IO_SIZE_MAX_BYTES: Final = 8 * MIB
# The buffers of QUERY_DIRECTORY, QUERY_INFO, SET_INFO, IOCTL and CHANGE_NOTIFY. As large as those of READ and WRITE,
# because some clients ask for 8 MiB of directory whatever was negotiated. A reply takes only as much memory as it has
# data.
TRANSACT_SIZE_MAX_BYTES: Final = 8 * MIB
# The headers, the transform header and the padding around the largest payload.
FRAME_OVERHEAD_MAX_BYTES: Final = 64 * KIB
# The largest payload, and what surrounds it.
FRAME_MAX_BYTES: Final = IO_SIZE_MAX_BYTES + FRAME_OVERHEAD_MAX_BYTES
# Before a session is authenticated, only NEGOTIATE and SESSION_SETUP are legitimate, and both are small.
FRAME_MAX_UNAUTHENTICATED_BYTES: Final = 64 * KIB
# The first message of a connection is a NEGOTIATE. With its length prefix it has at least 106 bytes in SMB 2, and at
# least 40 in SMB 1. The kernel wakes the exporter only when this many bytes have arrived.
FIRST_MESSAGE_MIN_BYTES: Final = 40
# The messages in one compound. No workload sends more, and a longer compound would only keep the parser busy.
COMPOUND_MAX: Final = 64

# The entries that one NEGOTIATE or CREATE may list. MS-SMB2 defines 5 dialects, 8 negotiate contexts with at most 4
# algorithms each, and 13 create contexts. The rest is room for later versions of the protocol.
NEGOTIATE_DIALECTS_MAX: Final = 64
NEGOTIATE_CONTEXTS_MAX: Final = 32
NEGOTIATE_ALGORITHMS_MAX: Final = 64
CREATE_CONTEXTS_MAX: Final = 32
# The entries of one reply to FSCTL_QUERY_NETWORK_INTERFACE_INFO. Each address of a node is an entry. A longer list
# counts as an error of the peer, because an initiator decodes the whole list.
NETWORK_INTERFACES_MAX: Final = 256

# --- credits --------------------------------------------------------------------------

# One credit pays for 64 KiB of payload (MS-SMB2 3.3.5.2.5).
CREDIT_BYTES: Final = 64 * KIB
# The credits that one connection may have in progress: 512 * 64 KiB = 32 MiB of payload. An initiator asks for no more.
CREDITS_MAX: Final = 512
# A peer that asks for more than 2 * CREDITS_MAX at once is granted up to this many, as Windows and smbd do. Requests
# beyond CREDITS_MAX wait in the receive buffer.
CREDITS_GRANTED_MAX: Final = 8192
# The credits before a login. A login takes one NEGOTIATE and a few SESSION_SETUPs, each of which costs one credit.
CREDITS_UNAUTHENTICATED_MAX: Final = 16
# The requests of one disk and class may hold this many times the credits that are free. One busy disk then gets most
# credits, and many hung disks never hold all of them. System I/O gets less than applications. A table with numbers is
# in initiator/channel/credits.py.
WINDOW_APP_SHARE: Final = 4.0
WINDOW_SYSTEM_SHARE: Final = 0.5
# These credits are reserved for requests of no disk (opens, closes, lists of disks) and for the first request of each
# disk and class. They are enough for four requests of 1 MiB.
WINDOW_FIRST_CREDITS: Final = 64
# The part of CREDITS_MAX that all lanes of a class share while no request queues on the way to the exporter. One credit
# is reserved for probes, and WINDOW_FIRST_CREDITS are reserved as well.
WINDOW_ROOM_MAX_CREDITS: Final = CREDITS_MAX - 1 - WINDOW_FIRST_CREDITS
# The lanes of a class share at least this much, however long an ECHO takes. A single lane of class app then gets 64
# credits, which are four requests of 1 MiB. With fewer, the link would be idle while a request and its reply travel.
# Beside applications, a single lane of class system gets 8 credits. These are 8 small requests, more than the usual
# depth of a repair. While no application is active, such a lane gets 64 credits, too.
WINDOW_ROOM_APP_MIN_CREDITS: Final = 96.0
WINDOW_ROOM_SYSTEM_MIN_CREDITS: Final = 24.0
WINDOW_ROOM_SYSTEM_ALONE_MIN_CREDITS: Final = 208.0
# An ECHO may wait this long behind the requests and replies of its channel. If it waits longer, the lanes get fewer
# credits. CoDel (RFC 8289) accepts the same standing queue.
WINDOW_DELAY_S: Final = 0.005
# The same bound for system I/O while applications are active. It is less than the round trip of a small request.
WINDOW_DELAY_BESIDE_APP_S: Final = 0.0005
# The smallest delay within this time, or twice this time, counts as the delay of an empty path. Older delays are
# forgotten, because loads and paths change.
WINDOW_DELAY_LEAST_S: Final = 30.0
# While a channel is busy, an ECHO is sent this often. It costs the two ends together 60 us, which is 0.3 % of a core.
WINDOW_ECHO_EVERY_S: Final = 0.02
# Each ECHO that did not wait too long gives the lanes of a class at least this many credits more. So the lanes have all
# their credits again within half a second.
WINDOW_ROOM_STEP_CREDITS: Final = 4.0
# While both classes wait for credits, applications get this many times as many as the system, which still progresses.
WINDOW_APP_TURNS: Final = 4

# --- exporter objects -----------------------------------------------------------------

# The logged-in connections of all nodes together: 16 nodes with 32 channels each, and as many again. The second half is
# for replacements, while connections of a lost network still exist. Each node has an equal part, which no other node
# can take.
CONNECTIONS_MAX: Final = 1024
# The smallest part of a node: two mounts with 32 channels each. With more than 16 nodes the parts therefore add up to
# more than CONNECTIONS_MAX.
CONNECTIONS_PER_NODE_MIN: Final = 64
# File descriptors that are reserved for everything but connections of nodes: disks, listening sockets, the state
# folder, metrics, and connections that wait for a login.
DESCRIPTORS_KEPT: Final = 512
# The process asks the kernel for this many descriptors, and its systemd unit allows as many. They are enough for 248
# nodes with CONNECTIONS_PER_NODE_MIN each.
DESCRIPTORS_WANTED: Final = 16384
# The next six limits bound connections without a login, separately in each of the three stages of a login
# (exporter/rules/admission.py). Past a bound, a new connection ends the connection that is in its stage for the longest
# time. A bound must therefore hold as many connections as arrive within a round trip, which takes some milliseconds.
# The connections from one address that belongs to no node. A person with a few programs needs as many, or several
# people behind one NAT.
CONNECTIONS_STRANGER_MAX: Final = 16
# The connections from all addresses that belong to no node, together. An attacker with many addresses gets no more.
CONNECTIONS_STRANGERS_MAX: Final = 64
# The connections from one address of the config. A login takes 0.1 s. In this time an attacker at the same address
# opens 150 connections (1,500 a second), and a mount connects all its 32 channels.
CONNECTIONS_NODE_MAX: Final = 256
# The connections from all addresses of the config together. If there are more than 8 addresses, each gets an equal
# part.
CONNECTIONS_NODES_MAX: Final = 2048
# The smallest part of an address of the config. With less, a mount could not connect its 32 channels at once.
CONNECTIONS_NODE_MIN: Final = 32
# The connections at the Unix socket, enough for two mounts that connect 32 channels each at the same time. The mode of
# the socket lets in only root and the user of the exporter.
CONNECTIONS_LOCAL_MAX: Final = 64
# The connections that are accepted at one socket in one turn of the event loop. Each takes 20 us. I/O gets its turn in
# between.
ACCEPTS_PER_TURN: Final = 32
# While more connections wait than one turn accepts, accepting at a socket takes at most this part of the exporter's
# time. So a flood of connections leaves the rest to I/O.
ACCEPT_SHARE: Final = 0.2
# Connections that the kernel completed and the exporter has not accepted yet. A flood of 20,000 a second brings as many
# within 0.2 s. The kernel allows at most net.core.somaxconn, which is 4096.
LISTEN_BACKLOG: Final = 4096
# A login takes two round trips. A connection without a login after this time is closed.
UNAUTHENTICATED_TIMEOUT_S: Final = 15.0
# A mount has one session. A program that logs in as several users over one connection has a few.
SESSIONS_PER_CONNECTION_MAX: Final = 16
# The logins in progress on one connection. Without this bound, strangers could fill the table of sessions.
LOGINS_PER_CONNECTION_MAX: Final = 2
# The sessions of all nodes together. Each node has an equal part that no other node can take, at least
# CONNECTIONS_PER_NODE_MIN.
SESSIONS_MAX: Final = 2048
# The channels of one session: four paths with CHANNELS_PER_PATH_MAX channels each.
CHANNELS_PER_SESSION_MAX: Final = 32
# The trees of one session. A mount connects to a few shares, and to each of them once.
TREES_PER_SESSION_MAX: Final = 64
# The opens of one session: half of OPENS_PER_NODE_MAX, so that one session of a node leaves room for its next one.
OPENS_PER_SESSION_MAX: Final = 4096
# The byte-range locks of one open, and the locks that one LOCK request may list. A program that locks parts of a disk
# has some dozens.
LOCKS_PER_OPEN_MAX: Final = 1024
# What one node may have in all its sessions together. A mount has one open and one or two trees for each disk in use.
# It has as many again while an earlier session of it ends. An open takes about 2 KiB, so 8192 opens take 16 MiB.
OPENS_PER_NODE_MAX: Final = 8192
# The opens of one node at one disk: a thousand programs that each open the disk themselves (smbclient, cifs), with room
# to spare.
OPENS_PER_NODE_AND_DISK_MAX: Final = 2048
# The trees of one node: as many as 16 sessions with TREES_PER_SESSION_MAX each.
TREES_PER_NODE_MAX: Final = 1024
# A mount watches the disks of an exporter by one CHANGE_NOTIFY. When a disk changes, every waiting CHANGE_NOTIFY is
# answered, in 15 us each. So those of one node take 4 ms.
NOTIFIES_PER_NODE_MAX: Final = 256
# The locks of one node. A lock takes about 500 bytes, so 8192 take 4 MiB. A program that locks parts of a disk has some
# dozens. When the node's connection is lost, all its locks are released at once, in 4 us each.
LOCKS_PER_NODE_MAX: Final = 8192
# The locks of one node at one disk: half of LOCKS_PER_NODE_MAX, so that one disk cannot use up the node's locks.
LOCKS_PER_NODE_AND_DISK_MAX: Final = 4096
# The LOCK requests of one node that wait for a range, in all and at one disk. When a lock of the disk is released, all
# requests that wait there are tried again, in 5 us each. For one node that takes 0.6 ms.
WAITING_LOCKS_PER_NODE_MAX: Final = 512
WAITING_LOCKS_PER_NODE_AND_DISK_MAX: Final = 128
# The CREATEs of one node that wait for an oplock break, or for I/O of the node's earlier session. A mount that
# reconnects sends a CREATE for each disk and class. When the wait ends, all of them are tried again, in 100 us each.
WAITING_CREATES_PER_NODE_MAX: Final = 256
# The opens of one node that keep the content of an enclosure. The five pages of an enclosure have at most 64 KiB each,
# and usually 8 KiB together. So the opens of one node keep at most 40 MiB, and usually 1 MiB.
ENCLOSURE_CONTENTS_PER_NODE_MAX: Final = 128
# The control pages of one node that are at enclosures. A page takes some 10 ms, and other nodes wait behind it.
ENCLOSURE_CONTROLS_PER_NODE_MAX: Final = 16
# The LOCK, CHANGE_NOTIFY and CREATE requests, and the long zeroings and discards, of one connection that wait. Each of
# them also holds a credit, and a usual peer has CREDITS_MAX credits.
ASYNC_PER_CONNECTION_MAX: Final = 512
# The changes that are queued for the next CHANGE_NOTIFY of an open: their number, and their size in a reply. Past
# either bound the reply says that the directory must be listed again, which every initiator has to support.
NOTIFY_CHANGES_MAX: Final = 256
NOTIFY_CHANGES_MAX_BYTES: Final = 32 * KIB
# The replies that a peer has not received yet. Past this bound the exporter stops reading from the peer, because each
# further request would hold more memory.
SEND_QUEUE_MAX_BYTES: Final = 64 * MIB
# The same bound in frames, because a small frame takes more memory than its bytes. It is twice what all credits can ask
# for.
SEND_QUEUE_FRAMES_MAX: Final = 16384
# The same bound for a peer that is not logged in. All replies to such a peer are small.
SEND_QUEUE_UNAUTHENTICATED_MAX_BYTES: Final = 64 * KIB
# A peer that receives none of its queued replies is disconnected after half to all of this time. Its replies hold
# memory that other nodes may need.
CONNECTION_DEAD_AFTER_S: Final = 20.0
# An exporter that stops lets requests in flight end for this long. Requests at a disk that hangs never end.
DRAIN_TIMEOUT_S: Final = 10.0
# An exporter that stops first announces its disks as drained, and waits this long at most until all mounts have asked
# for the announcement. A mount that is idle asks within CHANGES_PAUSE_S.
DRAIN_NEWS_S: Final = 1.0
# A suspended disk is resumed after the first time, unless the administrator gives another one up to the second. It is
# enough to carry a disk to another slot, and a suspension that was forgotten ends by itself.
SUSPEND_S: Final = 600.0
SUSPEND_MAX_S: Final = 86400.0
# meshctl waits this long until a disk that is suspended or drained has no request at its device, and its writes are
# flushed. A flush of a disk with a large cache takes seconds.
SETTLE_WAIT_S: Final = 20.0
SETTLE_POLL_S: Final = 0.1
# The rate and the burst of log lines that peers can cause at will. Lines beyond them are only counted, so that a peer
# cannot fill the log.
PEER_LOG_LINES_PER_S: Final = 2.0
PEER_LOG_LINES_BURST: Final = 50
# The connections at one control socket at once. Each may be a script that forgot to close its connection.
CONTROL_CONNECTIONS_MAX: Final = 16
# The longest request at a control socket, which is one line. meshctl sends some hundred bytes.
CONTROL_LINE_MAX_BYTES: Final = 64 * KIB

# --- the exporter's processor ---------------------------------------------------------

# A turn of one node's applications while other flows wait for turns. The turn is long enough for about ten requests of
# 4 KiB, so that looking for newcomers costs little. It is shorter than a read of a fast disk, so that waiting for a
# turn adds little to the latency.
TURN_S: Final = 0.0002
# A turn of the system, which delays applications. A shorter turn would serve a single request.
TURN_SYSTEM_S: Final = 0.0001
# A flow that has used this much processor time alone gets turns of TURN_ALONE_S, until another flow gets a turn. Longer
# turns save looking for newcomers.
TURN_ALONE_AFTER_S: Final = 0.05
TURN_ALONE_S: Final = 0.0005
# The most that is charged for a turn while no other flow waited. A login and the largest messages take less. In a
# longer turn, the kernel mostly ran another process, and the flow must not pay for that.
UNCONTENDED_CHARGE_MAX_S: Final = 0.002
# The most that is charged for taking one completion from a disk, which takes 5 to 10 us. The rest of a longer time was
# the time of another process.
COMPLETION_CHARGE_MAX_S: Final = 0.00005
# The bytes that are received or sent in one step while other flows wait: 0.1 ms of copying.
TURN_STEP_BYTES: Final = 256 * KIB
# A larger reply to a READ is signed and sent in a turn of its own, after the small replies. So a small reply does not
# wait for a large one.
REPLY_SMALL_MAX_BYTES: Final = 64 * KIB
# The weight of all strangers together. They get a quarter of the turns that a node of weight 1 gets, so that a flood of
# logins cannot stop I/O. A peer at an address of the config is no stranger, even before its login.
STRANGERS_WEIGHT: Final = 0.25

# --- the scratch share ----------------------------------------------------------------

# The size of the scratch share as a whole. One file may fill the share. A write past the end of a file zeroes the gap.
# That takes at most 50 ms, in which nothing else is served.
SCRATCH_SIZE_MAX_BYTES: Final = 256 * MIB
# Empty files do not count towards the size, but each takes about 2 KiB of memory. So all of them take at most 16 MiB.
SCRATCH_FILES_MAX: Final = 8192
# After this time a listing is answered with the names found so far. If it has found none, it continues in a later turn
# of its node. A pattern that matches no name is compared with every name, which takes 3 s for 8192 names of 255
# characters. Without this limit, no other request would be served meanwhile.
LISTING_STEP_S: Final = 0.001
# Every walk from a file up to the root ends within this many directories. With names of 255 characters a path then has
# 8192 characters, a quarter of what a CREATE can carry.
SCRATCH_DEPTH_MAX: Final = 32
# The opens of directories that watch for changes, in all and of one node. One change may concern all of them, at 1 us
# each. The bound of one node leaves room for other nodes.
SCRATCH_WATCHERS_MAX: Final = 512
SCRATCH_WATCHERS_PER_NODE_MAX: Final = 64
# The holder of an oplock must acknowledge a break within this time. It is less than the 20 s that smbclient waits for
# its CREATE.
OPLOCK_BREAK_TIMEOUT_S: Final = 10.0
# The kinds of opens do this often what time demands. An overdue break of an oplock ends at most this much late.
KIND_TICK_S: Final = 1.0

# --- disks ----------------------------------------------------------------------------

# The requests at a device at once. Further requests wait in the scheduler, which can still reorder them.
DISK_DEPTH_MAX: Final = 64
# The SQEs of the io_uring (64 bytes each), which are filled once per batch. The CQEs (16 bytes each; a power of two, as
# the kernel requires) bound what is in flight. Further requests wait in the engine's backlog.
URING_SQ_ENTRIES: Final = 256
URING_CQ_ENTRIES: Final = 4096
# The requests in flight in one Linux AIO context. All contexts of a machine share fs.aio-max-nr (65536).
AIO_IN_FLIGHT_MAX: Final = 1024
# The threads of the engine that is used where neither io_uring nor Linux AIO works. They serve all disks together, so
# at most as many requests are at all disks at once.
DISK_THREADS_MAX: Final = 16
# An exporter that was just killed holds its disks until its I/O in flight has ended. Its successor waits this long for
# a disk, and tries again this often.
DISK_CLAIM_TIMEOUT_S: Final = 5.0
DISK_CLAIM_RETRY_S: Final = 0.05
# A request that the kernel answers with EAGAIN or EINTR is sent again this often. After that, its caller gets EAGAIN.
DISK_AGAIN_MAX: Final = 100
# Where fallocate(2) cannot zero a range, writes of this size do. All disks share the memory that they write from.
ZERO_WRITE_BYTES: Final = 1 * MIB
# A failing disk becomes ok after this long without an error. During one fault, md, a RAID controller or a drive's own
# recovery pauses for less between two errors. So one fault is one change of the state, and not many.
DISK_STEADY_S: Final = 30.0
# Each disk is checked this often. The kernel reports when a device comes, goes or grows. It does not report changes of
# images, and it reports nothing inside a container.
DISK_CHECK_S: Final = 5.0
# A check of a disk, or an attempt to open one, takes milliseconds. If it takes longer than this, its file system or
# device is stuck.
DISK_CALL_TIMEOUT_S: Final = 5.0
# A node's config may have this many patterns that include disks, and as many that exclude disks.
DISK_PATTERNS_MAX: Final = 256
# A disk's size must fit the signed 64-bit offsets of pread(2).
DISK_SIZE_MAX_BYTES: Final = (1 << 63) - 1
# blkid reads a few hundred KiB from several places of a disk. If it takes longer than this, the disk hangs.
BLKID_TIMEOUT_S: Final = 5.0
# The examination of one disk, and the list of all disks, take milliseconds. If they take longer than this, a device
# hangs. It is longer than BLKID_TIMEOUT_S, so that the reason is named.
DISCOVERY_TIMEOUT_S: Final = 7.0
# This many disks are examined at the same time. With more, a single disk that hangs would hold up the others less, but
# the threads would take more turns from the event loop.
DISCOVERY_AT_ONCE_MAX: Final = 8
# Nobody reports that a disk is no longer mounted. So a disk that is in use is examined again after this time.
DISCOVERY_FREED_S: Final = 15.0
# The slots of a folder of images, unless the config says otherwise. A common shelf has 24.
DIRECTORY_SLOTS: Final = 24
# The number of a slot has 8 bits in the pages of an enclosure, and these slots are numbered from 1.
DIRECTORY_SLOTS_MAX: Final = 255
# The folders of one node. Each may leave one thread behind if its file system is stuck.
DIRECTORIES_PER_NODE_MAX: Final = 32
# A folder is looked at this often, beside each notification of the kernel. No notification comes if a file system is
# mounted over the folder.
FOLDER_CHECK_S: Final = 5.0
# The same while the folder cannot be watched, because it is missing, or because the user has no watches left.
FOLDER_RETRY_S: Final = 1.0
# Reading the pages of an enclosure takes some 10 ms. If a call takes longer than this, its device or the file system of
# its record is stuck. It is longer than SES_TIMEOUT_S, so that the reason is named.
ENCLOSURE_CALL_TIMEOUT_S: Final = 22.0
# The time between two attempts to close a device that was removed while a call to it is stuck.
ENCLOSURE_CLOSE_RETRY_S: Final = 5.0
# Where the kernel does not say whether a program still writes an image, the image must not have changed for this time.
# It is longer than FOLDER_CHECK_S, and shorter than anybody waits for a disk.
FOLDER_STEADY_S: Final = 8.0
# The pages of an enclosure are read this often, because no event reports a change of a fan, a lamp or a slot.
ENCLOSURE_POLL_S: Final = 5.0
# A missing disk is tried again after the shorter delay, because udev may still be making its link. The delay then grows
# to the longer one.
DISK_RETRY_MIN_S: Final = 1.0
DISK_RETRY_MAX_S: Final = 30.0
# The events of a device come in bursts, and udev makes its links within about this time. After this wait one check is
# enough for the whole burst.
DEVICE_SETTLE_S: Final = 0.1
# The kernel's messages about devices that are read at once, in 2 us each. A storm of messages must not block the event
# loop.
DEVICE_MESSAGES_MAX: Final = 1024
# A disk that was removed from the config may have I/O in flight that never ends. A reload waits no longer than this.
DISK_WITHDRAW_TIMEOUT_S: Final = 5.0
# A long zeroing or discard is sent to its disk in pieces, so that other requests can run in between. The first piece is
# as large as the largest WRITE. If a piece takes longer than ZERO_PIECE_S, the next piece is smaller. So other requests
# wait no longer than for a large write of an HDD.
ZERO_PIECE_BYTES: Final = 8 * MIB
ZERO_PIECE_MIN_BYTES: Final = 1 * MIB
ZERO_PIECE_MAX_BYTES: Final = 256 * MIB
ZERO_PIECE_S: Final = 0.04
# The most that an initiator asks an owner to zero or to discard in one request, if that is quick at that disk. A
# terabyte then takes a thousand requests.
ZERO_REQUEST_MAX_BYTES: Final = 1024 * MIB
# The ranges of one FILE_LEVEL_TRIM that an exporter processes. NVMe's command for it (Dataset Management) has as many.
TRIM_RANGES_MAX: Final = 256
# The memory that all peers together may make an exporter hold (exporter/rules/memory_budget.py). A single node can get
# half of it: four times the 64 MiB that keep one of its channels busy. Ten greedy nodes get 46 MiB each.
MEMORY_MAX_BYTES: Final = 512 * MIB
# A node that holds less than this may always take more, whatever others hold. It is enough for a read and a write of
# the largest size at once.
MEMORY_PER_NODE_MIN_BYTES: Final = 24 * MIB
# While another connection waits for memory, a connection that holds memory must make this much progress within
# CONNECTION_DEAD_AFTER_S / 2. It is ended if its half-received frame grows by less, or if its peer receives less of
# its replies. The slowest supported link carries 10 KB/s, which is as much.
MEMORY_HELD_MIN_PROGRESS_BYTES: Final = 100 * KIB
# The unused memory that each buffer pool keeps for reuse instead of returning it to the kernel. Getting a fresh MiB
# from the kernel costs several times as much as filling it.
BUFFER_POOL_IDLE_MAX_BYTES: Final = 64 * MIB

# --- scheduler ------------------------------------------------------------------------

# The part of a disk that the system class gets at least, even when applications want everything. Without it, a repair
# or a backup would never end beside busy applications.
SYSTEM_FLOOR: Final = 0.2
# The range of system_floor in the config. Below the minimum, the system makes no visible progress. Above the maximum,
# the system is no longer the lesser class.
SYSTEM_FLOOR_MIN: Final = 0.01
SYSTEM_FLOOR_MAX: Final = 0.9
# The range of a flow's weight. A flow of weight 0.01 beside a flow of weight 1000 gets a hundred-thousandth of a disk,
# which is one request in several seconds. With less, its requests would not end within io_timeout_s.
FLOW_WEIGHT_MIN: Final = 0.01
FLOW_WEIGHT_MAX: Final = 1000.0
# The flows whose use of a disk is remembered: both classes of 128 nodes. A flow takes 8 KiB, a busy one 50 KiB.
FLOWS_PER_DISK_MAX: Final = 256
# A limit below one request, or below one page, a second would make even the smallest I/O end in ETIMEDOUT.
LIMIT_IOPS_MIN: Final = 1.0
LIMIT_BYTES_PER_S_MIN: Final = 4096.0
# A limited request may leave this much before its time. Timers are late by a few milliseconds, and without this
# allowance the rate would stay below the limit.
LIMIT_BURST_S: Final = 0.01
# Requests that together take this much of a disk's time are always sent. Otherwise a fast disk would be idle while its
# exporter does something else. A newcomer waits no longer than this.
DISK_BUDGET_MIN_S: Final = 0.004
# If a disk answers within the call that sends a request, sending stops after this time. It continues in the next round
# of the event loop, so that other sockets are served meanwhile. The time equals a turn of the processor (TURN_S).
PUMP_S: Final = 0.0002
# The bytes that are sent to a disk in one call. Copying them out of the page cache takes 0.1 ms (TURN_STEP_BYTES).
PUMP_BATCH_BYTES: Final = 256 * KIB
# What each request adds to these bytes: sending it and taking its completion cost as much as copying 8 KiB.
PUMP_REQUEST_BYTES: Final = 8 * KIB
# The part of a disk's depth that the system may use while an application is active. A depth that keeps the disk busy is
# a little more than the disk serves at once. The rest would wait inside the disk, ahead of applications.
SYSTEM_DEPTH_SHARE: Final = 0.75
# An application counts as active for this long after its last request. Reserving a part of the disk for an application
# that asks less often would cost more than it gives.
APP_ACTIVE_S: Final = 0.05
# The learnt costs of disks are saved this often. A crash loses what was learnt since; a few seconds of load restore it.
CALIBRATION_SAVE_S: Final = 60.0
# A failed flush is answered after its loss is noted in the state folder. The disk of that folder may hang, so the
# answer waits no longer than this.
LOSS_KEEP_TIMEOUT_S: Final = 5.0
# A flush that takes longer than this may be failing, so a loss is noted until it succeeds. A healthy flush takes this
# long only if the page cache holds gigabytes of dirty data.
FLUSH_DOUBT_S: Final = 3.0
# No disk reaches these rates. A larger limit in the config is a mistake in its unit.
LIMIT_IOPS_MAX: Final = 1e9
LIMIT_BYTES_PER_S_MAX: Final = 1e13

# The range of the fixed cost of a request in the cost model. A request costs 1 us if memory is behind a loop device,
# and 10 s at a tape-like device.
COST_FIXED_MIN_S: Final = 1e-7
COST_FIXED_MAX_S: Final = 10.0
# The range of the cost of a byte: from 1 TB/s to 100 KB/s.
COST_BYTE_MIN_S: Final = 1e-12
COST_BYTE_MAX_S: Final = 1e-5
# The range of the request size at which the bytes cost as much as the fixed part. Below a sector, or above every
# request, one of the two costs could not be measured, because the other cost makes up the whole time.
COST_BREAK_EVEN_MIN_BYTES: Final = 256
COST_BREAK_EVEN_MAX_BYTES: Final = 64 * MIB
# The largest cost of a write, and of a flush, relative to a read. SMR drives, and flash without a cache, stay below.
COST_WRITE_RATIO_MAX: Final = 100
COST_FLUSH_RATIO_MAX: Final = 1000
# A cost model counts as calibrated after this many saturated windows, which take 0.1 to 1 s each.
COST_CALIBRATED_WINDOWS: Final = 20
# The depth of a new device. It keeps an SSD with 8 channels busy, and gives an HDD most of what its queue can gain. A
# newcomer waits for 8 requests, and not for DISK_DEPTH_MAX.
DEPTH_START: Final = 8
# A device that answers in less than this at its present depth needs no smaller depth, because a newcomer waits little.
DEPTH_LATENCY_TARGET_S: Final = 1e-3
# The part of the best depth's throughput that may be given up for a smaller depth.
DEPTH_LOSS_MAX: Final = 0.02

# --- initiator ------------------------------------------------------------------------

# The kernel gives a SCSI command the same time, so programs are used to waiting for it.
IO_TIMEOUT_S: Final = 30.0
# TCP sends a lost SYN again after 1 s and after 3 s. Both repetitions fit.
CONNECT_TIMEOUT_S: Final = 5.0
# Mounting takes some milliseconds. A mount waits no longer than this for another mount at the same folder.
MOUNT_TURN_S: Final = 5.0
# The delay between two attempts to connect doubles from the minimum to the maximum. So a restarted exporter is found at
# once, and an exporter that stays away is tried rarely.
RECONNECT_DELAY_MIN_S: Final = 0.05
RECONNECT_DELAY_MAX_S: Final = 2.0
# While a large message is received, the socket becomes readable only after this many bytes, because each wake-up costs
# more than copying. Progress below that is seen at every CHANNEL_TICK_S.
LOW_WATER_MAX_BYTES: Final = 512 * KIB
# A channel with outstanding requests that receives nothing for CHANNEL_PROBE_AFTER_S is probed with an ECHO. After
# CHANNEL_SILENCE_MAX_S without an answer the channel is closed, because its requests would wait until they time out.
CHANNEL_PROBE_AFTER_S: Final = 1.0
CHANNEL_SILENCE_MAX_S: Final = 5.0
# A partly received message that grew by this much is a sign of life. The slowest supported link (10 KB/s) carries as
# much within CHANNEL_DEAD_AFTER_MIN_S. The answers to all probes within CHANNEL_SILENCE_MAX_S are smaller.
CHANNEL_PROGRESS_MIN_BYTES: Final = 4 * KIB
# One task per channel checks deadlines, probes and silence this often, so each of them is found at most this much late.
CHANNEL_TICK_S: Final = 0.25
# An idle channel is probed this often, so that a lost connection is found before a request needs it.
CHANNEL_IDLE_PROBE_S: Final = 5.0
# After this many receives in a row, other tasks get their turn. Otherwise a fast exporter could keep the event loop.
CHANNEL_RECEIVES_MAX: Final = 16
# A login, a tree connect or an open takes milliseconds. An exporter that takes longer than this counts as away.
HANDSHAKE_TIMEOUT_S: Final = 10.0
# If other paths wait to log in, a login without an answer is given up after this shorter time. Only one path logs in at
# a time, so a silent path would delay the others.
LOGIN_BESIDE_OTHERS_S: Final = 2.5
# While a disk has users and its exporter refuses to open it, the open is tried again this often. The cause, such as a
# missing device, may end at any time.
REOPEN_DELAY_S: Final = 1.0
# The pause before the next CHANGE_NOTIFY. Without it, an exporter that answers each of them at once would be asked in a
# loop. A change within the pause is seen that much later.
CHANGES_PAUSE_S: Final = 0.25
# The pause grows by this for each disk of the list. Decoding a disk and adding it to the tree takes 70 us. So a list
# that changes each time takes 4 % of the mount's time.
CHANGES_PAUSE_PER_DISK_S: Final = 0.002
# The same for each slot of a list of enclosures, which takes 16 us.
CHANGES_PAUSE_PER_SLOT_S: Final = 0.0004
# An exporter reports changes of its disks. Its list is also fetched this often, in case a report is missing.
DISKS_REFRESH_S: Final = 30.0
# A request that the exporter could not execute for now (a lost open, no resources) is sent again after a delay. The
# delay doubles from the minimum to the maximum.
RETRY_DELAY_MIN_S: Final = 0.01
RETRY_DELAY_MAX_S: Final = 0.5
# After a call timed out, the mount probes the disk itself. Later calls wait this long for the probe before they fail.
PROBE_PATIENCE_S: Final = 1.0
# A probe reads this much: a whole block of every kind of disk, so that the exporter can bypass the page cache.
PROBE_BYTES: Final = 4 * KIB
# ACCESS_DENIED for something that an open may do suggests that the request was changed on its way, and its channel is
# closed. This happens at most this often within this time: a server that means its refusal must not lose all channels.
DENIALS_MAX: Final = 3
DENIALS_WINDOW_S: Final = 60.0
# The close of a handle waits no longer than this for the last answers, because close(2) must return.
CLOSE_TIMEOUT_S: Final = 5.0

# --- multichannel ---------------------------------------------------------------------

# The channels of one pair of interfaces: the default, and the most that the config may ask for.
CHANNELS_PER_PATH: Final = 1
CHANNELS_PER_PATH_MAX: Final = 8
# The message ids that the first connection of a session reserves for its binds, which are signed with the same key. A
# bind takes three of them, so they are enough for 85 binds. After those a new session is set up, because under AES-GMAC
# an exporter accepts no other ids for binds.
BIND_MESSAGE_IDS: Final = 256
# The intervals of nonces that a session of several channels remembers, at 80 bytes each. A peer that counts its nonces
# needs an interval for each late or lost message. A peer that draws them at random needs one for each message.
NONCES_REMEMBERED_MAX: Final = 16384
# A channel that receives nothing for this long, while other channels of its session do, is closed. The config may set
# the time, down to the minimum. With less, a busy processor would look like a lost path.
CHANNEL_DEAD_AFTER_S: Final = 1.0
CHANNEL_DEAD_AFTER_MIN_S: Final = 0.5
# With other channels to continue on, a silent channel is probed earlier than without.
CHANNEL_PROBE_BESIDE_OTHERS_S: Final = 0.5
# A channel that lasted less than this does not prove that its path works. The path may pass logins and probes, which
# are small, and drop everything else. Each new channel on it would delay requests until its silence is found.
PATH_STEADY_AFTER_S: Final = 10.0
# An exporter that refused a further channel of a session is asked again after this. It may have counted dead channels
# of this mount, which it finds within CONNECTION_DEAD_AFTER_S.
BIND_AGAIN_S: Final = 30.0
# The addresses that are taken from an exporter's list. At most CHANNELS_PER_SESSION_MAX of them can be used at once. If
# the two nodes share two networks, the exporter may have that many addresses in each.
REMOTES_MAX: Final = 64
# The interfaces of an exporter are asked for this often, and whenever a path fails. An exporter does not report that it
# got a new interface.
INTERFACES_REFRESH_S: Final = 30.0
# A path that could not be connected for this long counts as broken, and the next slower paths replace it.
PATH_BROKEN_AFTER_S: Final = 2.0

# --- event loop -----------------------------------------------------------------------

# A callback that fails this often within a second fails at each of its calls. Its descriptor is not watched any longer,
# because the loop would do nothing else.
CALLBACK_FAILURES_MAX_PER_S: Final = 100

# --- sockets --------------------------------------------------------------------------

# Unix sockets do not size their buffers by themselves. The default of 208 KiB would split a large message into many
# pieces.
UNIX_SOCKET_BUFFER_BYTES: Final = 4 * MIB
# The logged-in connections at an exporter's Unix socket that get such buffers. Together they take at most 256 MiB of
# kernel memory. Two mounts with 32 channels each have as many.
UNIX_SOCKETS_LARGE_MAX: Final = 64
# The kernel ends a connection whose peer died silently. An idle one ends after 5 s + 3 * 2 s. One whose sent data is
# not acknowledged ends after 10 s.
TCP_KEEPALIVE_IDLE_S: Final = 5
TCP_KEEPALIVE_INTERVAL_S: Final = 2
TCP_KEEPALIVE_COUNT: Final = 3
TCP_USER_TIMEOUT_MS: Final = 10_000

# --- network interfaces ---------------------------------------------------------------

# The speed of a link whose driver reports none (virtio, loopback). Samba assumes a gigabit, too.
LINK_SPEED_ASSUMED_BITS_S: Final = 1_000_000_000
# After a link comes up, its addresses and routes follow within milliseconds. After this wait they are all one change.
INTERFACES_SETTLE_S: Final = 0.05
# If the interfaces could not be read because no file descriptor was left, they are read again after this.
INTERFACES_RETRY_S: Final = 1.0
# The netlink messages that are read at once, in 1 us each. On a machine whose routes change all the time, they must not
# block the event loop.
INTERFACE_MESSAGES_MAX: Final = 4096

# --- the symmetry check ---------------------------------------------------------------

# The view of a mount: DISKS_PER_NODE_MAX disks with long ids take 200 KiB.
VIEW_MAX_BYTES: Final = 1 * MIB
# The exporters of which a view tells how they are reached. Larger clusters have not been tried.
VIEW_EXPORTERS_MAX: Final = 1024
# The mounts of one node whose views an exporter keeps. A view takes up to 1 MiB.
VIEWS_PER_NODE_MAX: Final = 8
# The views of all nodes, as an exporter returns them. 16 nodes and 1024 disks take 2 MiB.
VIEWS_MAX_BYTES: Final = 4 * MIB
# A mount sends its view this often, even if nothing changed. So its age tells whether the mount still works.
VIEW_EVERY_S: Final = 30.0
# A mount sends a changed view only after this time, because changes come in groups.
VIEW_PAUSE_S: Final = 1.0
# A view is older than this if its mount has missed two of its times.
VIEW_OLD_S: Final = 75.0
# An exporter that does not answer `meshctl check` within this time counts as silent. It is less than CONTROL_TIMEOUT_S,
# by which the mount has to answer meshctl.
CHECK_TIMEOUT_S: Final = 4.0
# `meshctl check` asks a mount about this many exporters at once, which is half of CONTROL_CONNECTIONS_MAX.
CHECK_AT_ONCE: Final = 8
# `meshctl check` compares again for this long before it reports a difference. A change is in all views after
# VIEW_PAUSE_S and the time in which the mounts take over the change.
CHECK_WAIT_S: Final = 5.0

# --- mount ----------------------------------------------------------------------------

# An exporter's list of disks: enough for a thousand disks. Each query costs credits for the whole length.
DISK_LIST_MAX_BYTES: Final = 1 * MIB
# An exporter's list of enclosures: enough for five thousand slots.
ENCLOSURE_LIST_MAX_BYTES: Final = 1 * MIB
# The content of an enclosure's file. Each of its five pages has at most 64 KiB.
ENCLOSURE_FILE_MAX_BYTES: Final = 512 * KIB
# The disks that one exporter may advertise. The largest chassis hold about a hundred. Decoding a list of 1024 disks
# takes 70 ms, in which the mount does nothing else.
DISKS_PER_NODE_MAX: Final = 1024
# The enclosures that one exporter may advertise. A server has up to a dozen shelves, each with one or two expanders.
ENCLOSURES_PER_NODE_MAX: Final = 64
# The slots of one enclosure. The largest shelves have about a hundred.
SLOTS_PER_ENCLOSURE_MAX: Final = 512
# One command to an enclosure. Most enclosures answer within 100 ms. Some have to ask their parts over slow buses first,
# which takes seconds. After this time the kernel ends the command.
SES_COMMAND_TIMEOUT_S: Final = 10.0
# All commands of one reading or of one control page together, also those that are repeated.
SES_TIMEOUT_S: Final = 20.0
# A command is sent this often while the device only announces events (it was reset, its configuration changed), each of
# which costs one command.
SES_COMMAND_TRIES_MAX: Final = 6
# A page is asked for this often: first with a small length, then with its own. It may grow meanwhile, and a device may
# send less than it has.
SES_PAGE_TRIES_MAX: Final = 4
# All pages are read this often until they belong to one configuration. A configuration changes when a part of the
# enclosure is plugged in or out.
SES_READINGS_MAX: Final = 4
# While nothing changes, a poll reads only the status page. After this time it reads all pages, because an enclosure may
# change an address on another page without a trace in its status.
SES_FULL_READING_S: Final = 60.0
# The disks of one exporter's list whose faults are reported. Each fault is a line of the status and of the log.
DISK_PROBLEMS_PER_NODE_MAX: Final = 16
# The paths whose inode numbers are remembered. If a path comes back after it was forgotten, it gets a new inode number.
INODES_REMEMBERED_MAX: Final = 1 << 18
# The FUSE requests of one mount in progress. I/O that waits for a lost exporter or a hung disk occupies a worker. The
# kernel has one queue for all disks, so at this limit every other disk waits, too. A waiting worker takes 10 KiB (and
# 1 MiB of address space), so all of them take 80 MiB.
FUSE_WORKERS_MAX: Final = 8192
# The part of these that the kernel gives to background requests: readahead, libaio, io_uring, and every O_DIRECT
# request, even a synchronous one. The rest is left to stat, open and buffered I/O, so that a disk that
# waits does not block `ls`. The kernel allows 16 bits, and without root at most its own max_user_bgreq.
FUSE_BACKGROUND_MAX: Final = 7168
# The data of writes in progress, which takes twice its size in memory. Past this bound no request is taken from the
# kernel. Otherwise programs that write large pieces to a dead disk could fill the memory.
FUSE_WRITES_MAX_BYTES: Final = 512 * MIB
# An open with O_TRUNC is two requests of one thread, the second right behind the first (fuse/openers.py). If two
# threads with the same id opened the disk within this time, the second request may belong to either.
FUSE_TRUNCATE_WITHIN_S: Final = 10.0
# Before and after zeros are written under pages of the page cache, these pages are dropped. Pages that other calls keep
# locked, or that wait for an owner to be written back, are not waited for longer than this.
FUSE_DROP_PAGES_TIMEOUT_S: Final = 1.0
# The same time for pages that the request itself may keep locked until it is answered. Waiting longer would not help.
FUSE_DROP_OWN_PAGES_TIMEOUT_S: Final = 0.02
# An unmount flushes all unflushed writes at their owners. This stays well below the 90 s after which systemd kills the
# process.
UMOUNT_FLUSH_TIMEOUT_S: Final = 10.0
# stat(2) of a disk asks its owner for the time of the last write. A busy owner answers in milliseconds. An owner that
# does not answer must not make `ls` slow.
ASK_DISK_TIMEOUT_S: Final = 0.5
# While an owner is down, one such question in this time tries to reconnect, because the owner may just be back. Other
# questions are answered at once with the last known time.
ASK_DISK_AGAIN_S: Final = 1.0
# The kernel may use names and attributes for this long without asking again. It asks for the attributes of a disk or an
# enclosure at each stat(2), because other nodes change them. It asks for symlinks at each use, because disks move.
FUSE_ATTRIBUTES_VALID_S: Final = 1.0
# The kernel reads this much ahead of a sequential reader, so that 1 MiB is requested at once.
FUSE_READ_AHEAD_KIB: Final = 1024
# A starting mount waits this long for exporters to connect. Exporters that connect later appear when they do.
MOUNT_SETTLE_S: Final = 5.0
# With -o wait=..., a starting mount waits this long for its disks, unless the option says otherwise. An exporter that
# starts at the same boot needs seconds. mount(8) must end within 90 s, systemd's DefaultTimeoutStartSec.
MOUNT_WAIT_S: Final = 30.0
# A mount that is asked to stop while it is in use continues for this long. A file system on a disk of the mesh has time
# to write its data. It is less than 90 s, systemd's DefaultTimeoutStopSec, after which systemd kills the mount.
UNMOUNT_BUSY_S: Final = 80.0
# Within UNMOUNT_BUSY_S the unmount is tried again this often. Each attempt starts a program.
UNMOUNT_RETRY_S: Final = 0.2
# `meshctl wait` waits this long for disks, unless its option says otherwise. This is enough for an owner that boots at
# the same time.
WAIT_S: Final = 60.0
# `meshctl wait` looks for its disks this often. Each look reads the status of a mount.
WAIT_POLL_S: Final = 0.2

# `meshctl discard` clears a disk in steps of this length. So it can show progress, and can be interrupted.
DISCARD_STEP_S: Final = 1.0
# A disk that is open in the mount is not discarded. A file that a program has just closed counts as open for less than
# this time.
DISCARD_CLOSE_S: Final = 0.5

# A reload reads the config and the keys, and connects to nothing. If it takes longer than this, a file system hangs.
RELOAD_TIMEOUT_S: Final = 30.0

# --- metrics --------------------------------------------------------------------------

# Prometheus uses one connection at a time. The rest is for a second server and for people.
METRICS_CONNECTIONS_MAX: Final = 4
# The connections that the kernel completed and the process has not accepted yet. With a full backlog, the kernel would
# drop the connections of Prometheus.
METRICS_BACKLOG: Final = 128
# The time for each step of a client: sending its request, and receiving the answer. Prometheus itself times out after
# 10 s.
METRICS_CLIENT_TIMEOUT_S: Final = 5.0
# The event loop must take the snapshot within this time. If it does not, the client gets an error instead of a timeout.
METRICS_SNAPSHOT_TIMEOUT_S: Final = 5.0
# If accept(2) failed, for example because no descriptor was left, the process tries again after this. Without the pause
# it would try in a loop.
METRICS_ACCEPT_RETRY_S: Final = 0.1
# After this many lines (about 0.3 ms of work) formatting pauses for METRICS_REST_S, so that it does not delay I/O.
METRICS_STEPS_MAX: Final = 64
METRICS_REST_S: Final = 0.0002

# --- problems -------------------------------------------------------------------------

# A process checks this often whether a problem began or ended. A condition that lasts less is no problem.
PROBLEMS_LOOK_S: Final = 5.0
# Errors and refusals are counted over this time, which is what an administrator calls "now".
PROBLEMS_WINDOW_S: Final = 60.0
# A disk that takes longer than this for one request is a problem. A spinning disk retries for 7 s by itself.
PROBLEM_IO_WAIT_S: Final = 10.0
# A path that is lost this often within PROBLEMS_WINDOW_S is unstable. A cable that somebody moves causes one loss.
PROBLEM_PATH_LOSSES: Final = 3
# A node that logs in before its key was copied is refused several times. More refusals are a stranger or a wrong key.
PROBLEM_LOGINS_REFUSED: Final = 5
# A single broken message may come from a port scanner.
PROBLEM_FRAMES_BROKEN: Final = 5
# Neither a scanner nor a wrong key causes a wrong signature on the connection of a session. So a single wrong signature
# is a problem.
PROBLEM_FORGERIES: Final = 1
# Use of this part of a limit leaves little for the next node.
PROBLEM_LIMIT_SHARE: Final = 0.9

# --- config and keys ------------------------------------------------------------------

# A config of 416 disks has 60 KiB. If a path to a log file is given by mistake, reading it must not fill the memory.
CONFIG_MAX_BYTES: Final = 4 * MIB
# Reading the config and the keys takes milliseconds. If a file system is stuck, a reload is given up after this time,
# so that the process can still be stopped.
CONFIG_READ_TIMEOUT_S: Final = 10.0
# The range of io_timeout_s in the config. A shorter time would end before the first probe of a silent exporter
# (CHANNEL_PROBE_AFTER_S). A longer one is most likely a mistake in its unit.
IO_TIMEOUT_MIN_S: Final = 1.0
IO_TIMEOUT_MAX_S: Final = 3600.0
# The largest weight of a node in the config. It equals FLOW_WEIGHT_MAX.
NODE_WEIGHT_MAX: Final = 1000
# sun_path has 108 bytes, including the final NUL (unix(7)).
UNIX_PATH_MAX_BYTES: Final = 107
# A key file has 45 bytes. A larger file is something else, and is not read as a whole.
KEY_FILE_MAX_BYTES: Final = 1024
# One SPNEGO token. The largest tokens of NTLMv2 are smaller than 4 KiB.
AUTH_TOKEN_MAX_BYTES: Final = 16 * KIB
# The largest status of an exporter or a mount that meshctl reads. The status of 64 nodes with 64 disks each is below
# 4 MiB.
STATUS_MAX_BYTES: Final = 16 * MIB
# Each step of a request at a control socket takes milliseconds. A process that takes longer than this counts as stuck.
CONTROL_TIMEOUT_S: Final = 5.0
