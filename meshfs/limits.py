"""Every limit of meshfs in one place, with the reason for its value.

Units are the last word of a name. What a peer may ask for never exceeds these; a
request above one gets its defined status or ends the connection.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- frames (exporter and initiator) -------------------------------------------------

# One READ or WRITE. 8 MiB is what Windows and smbd offer.
IO_SIZE_MAX_BYTES: Final = 8 * MIB
# QUERY_DIRECTORY, QUERY_INFO, SET_INFO, IOCTL and CHANGE_NOTIFY buffers. As for IO: some clients
# ask for 8 MiB of directory without looking at what was negotiated. Only what there is takes memory.
TRANSACT_SIZE_MAX_BYTES: Final = 8 * MIB
# Headers, transform header, and padding around the largest payload.
FRAME_OVERHEAD_MAX_BYTES: Final = 64 * KIB
FRAME_MAX_BYTES: Final = IO_SIZE_MAX_BYTES + FRAME_OVERHEAD_MAX_BYTES
# Before a session is authenticated nothing large is legitimate: NEGOTIATE and SESSION_SETUP only.
FRAME_MAX_UNAUTHENTICATED_BYTES: Final = 64 * KIB
# The first message of a connection is NEGOTIATE of SMB 2 (106 bytes at the least, with its prefix) or SMB 1 (40).
FIRST_MESSAGE_MIN_BYTES: Final = 40
# Messages in one compound; more is an attack on the parser, not a workload.
COMPOUND_MAX: Final = 64

# What one NEGOTIATE or CREATE may list. MS-SMB2 defines 5 dialects, 8 negotiate contexts,
# at most 4 algorithms in each and 13 create contexts; the rest is room for what comes.
NEGOTIATE_DIALECTS_MAX: Final = 64
NEGOTIATE_CONTEXTS_MAX: Final = 32
NEGOTIATE_ALGORITHMS_MAX: Final = 64
CREATE_CONTEXTS_MAX: Final = 32
# Entries of one FSCTL_QUERY_NETWORK_INTERFACE_INFO answer; one per address.
NETWORK_INTERFACES_MAX: Final = 256

# --- credits --------------------------------------------------------------------------

# One credit pays for 64 KiB (MS-SMB2 3.3.5.2.5).
CREDIT_BYTES: Final = 64 * KIB
# What one connection may have worked on at once: 512 * 64 KiB = 32 MiB of payload. An initiator asks for no more.
CREDITS_MAX: Final = 512
# What a peer gets that asks for more than a thousand at once, as from Windows and smbd: what is
# beyond CREDITS_MAX waits where it was received.
CREDITS_GRANTED_MAX: Final = 8192
CREDITS_UNAUTHENTICATED_MAX: Final = 16
# A disk's requests of one class may hold this times the credits that are free then (initiator/channel/credits.py
# has the numbers): one busy disk most of them, many hung ones never all; system I/O less than applications.
WINDOW_APP_SHARE: Final = 4.0
WINDOW_SYSTEM_SHARE: Final = 0.5
# Only for the first request of a disk and class, and for opens and the like: four of 1 MiB.
WINDOW_FIRST_CREDITS: Final = 64
# Of CREDITS_MAX, what lanes share when nothing limits them: without the credit for probes and WINDOW_FIRST_CREDITS.
WINDOW_ROOM_MAX_CREDITS: Final = CREDITS_MAX - 1 - WINDOW_FIRST_CREDITS
# What lanes of a class share at least, however long an ECHO takes. Applications: one lane has 64 credits then, which
# are four requests of 1 MiB or 64 small ones, so that a link is busy while a request and its reply travel. System
# beside applications: one lane has 8 small requests, more than a repair's usual depth. System alone: 64 credits, too.
WINDOW_ROOM_APP_MIN_CREDITS: Final = 96.0
WINDOW_ROOM_SYSTEM_MIN_CREDITS: Final = 24.0
WINDOW_ROOM_SYSTEM_ALONE_MIN_CREDITS: Final = 208.0
# What an ECHO may wait behind what the channel has on the way: the standing queue that CoDel (RFC 8289) accepts.
WINDOW_DELAY_S: Final = 0.005
# The same for system I/O while applications are active: less than a round trip of a small request takes.
WINDOW_DELAY_BESIDE_APP_S: Final = 0.0005
# The smallest delay within this time counts as that of an empty path; loads change, and so do paths.
WINDOW_DELAY_LEAST_S: Final = 30.0
# An ECHO costs 60 us at both ends together: a third of a per cent of a core at each, while a channel is busy.
WINDOW_ECHO_EVERY_S: Final = 0.02
# Added at least after each ECHO that did not wait too long: all of the room is back within half a second.
WINDOW_ROOM_STEP_CREDITS: Final = 4.0
# Among those that wait for credits applications get this many times what the system gets.
WINDOW_APP_TURNS: Final = 4

# --- exporter objects -----------------------------------------------------------------

# Connections that are logged in, of all nodes together: 16 nodes with 32 channels each, and as many again while a lost
# network is replaced by another one. Each node has its part of them, which no other node can take ...
CONNECTIONS_MAX: Final = 1024
# ... and this many at the least: two mounts with 32 channels each. So with more than 16 nodes the sum is larger.
CONNECTIONS_PER_NODE_MIN: Final = 64
# File descriptors that are not for connections of nodes: disks, listening sockets, the state folder, metrics, and
# the connections that wait for a login.
DESCRIPTORS_KEPT: Final = 512
# Descriptors that a process asks the kernel for; the unit of systemd allows as many. They are enough for 248 nodes
# with CONNECTIONS_PER_NODE_MIN each.
DESCRIPTORS_WANTED: Final = 16384
# Connections on which nobody has logged in yet, in each of the three stages of a login (exporter/admission.py). Past a
# bound the oldest of the stage is ended for a newcomer, so it must hold as many as arrive within a round trip (some
# milliseconds). From one address that is no node's: a person with a few programs, or several of them behind one NAT.
CONNECTIONS_STRANGER_MAX: Final = 16
# From all such addresses together.
CONNECTIONS_STRANGERS_MAX: Final = 64
# From one address of the config: a mount that connects all its 32 channels at once, while others at the same address
# open 1,500 a second and a login takes 0.1 s; with many addresses fewer, of these in all, and at the least those 32.
CONNECTIONS_NODE_MAX: Final = 256
CONNECTIONS_NODES_MAX: Final = 2048
CONNECTIONS_NODE_MIN: Final = 32
# At the Unix socket, whose mode lets in root and the user of the exporter only.
CONNECTIONS_LOCAL_MAX: Final = 64
# Connections accepted at one socket in one turn of the event loop, 20 us each; I/O has its turn in between.
ACCEPTS_PER_TURN: Final = 32
# Of the exporter's time, what accepting may take at each socket while more connections wait than one turn accepts.
ACCEPT_SHARE: Final = 0.2
# Connections that were completed by the kernel and not accepted yet: what a flood of 20,000 a second brings within
# 0.2 s. The kernel takes at most net.core.somaxconn, which is 4096.
LISTEN_BACKLOG: Final = 4096
# A login takes two round trips; one that takes longer than this is none.
UNAUTHENTICATED_TIMEOUT_S: Final = 15.0
# A mount has one session. A program that logs in as several users over one connection has a few.
SESSIONS_PER_CONNECTION_MAX: Final = 16
# Logins under way on one connection: strangers must not fill the table of sessions.
LOGINS_PER_CONNECTION_MAX: Final = 2
# Of all nodes together, each of which has its part that no other can take, and at the least as many as it may have
# connections.
SESSIONS_MAX: Final = 2048
CHANNELS_PER_SESSION_MAX: Final = 32
TREES_PER_SESSION_MAX: Final = 64
OPENS_PER_SESSION_MAX: Final = 4096
LOCKS_PER_OPEN_MAX: Final = 1024
# What one node may have in all its sessions together. A mount has an open and a share or two for each disk that is in
# use, and as many again while an earlier session of it ends. An open takes about 2 KiB, so these are at most 16 MiB.
OPENS_PER_NODE_MAX: Final = 8192
# Of them at one disk: a thousand programs of a node that open it by themselves (smbclient, cifs), and some more.
OPENS_PER_NODE_AND_DISK_MAX: Final = 2048
TREES_PER_NODE_MAX: Final = 1024
# A mount watches an exporter's disks by one CHANGE_NOTIFY. Each that waits is answered when a disk changes, 15 us each,
# so all of a node's take 4 ms.
NOTIFIES_PER_NODE_MAX: Final = 256
# A lock takes about 500 bytes, so these are 4 MiB of a node. A program that locks parts of a disk has some dozens. All
# of them go at once when the node's connection is lost, 4 us each.
LOCKS_PER_NODE_MAX: Final = 8192
LOCKS_PER_NODE_AND_DISK_MAX: Final = 4096
# Each that waits for a range is tried again when a lock there goes, 5 us each: 0.6 ms for all of a node's at one disk.
WAITING_LOCKS_PER_NODE_MAX: Final = 512
WAITING_LOCKS_PER_NODE_AND_DISK_MAX: Final = 128
# CREATEs of a node that wait for an oplock, or for I/O of the node's earlier session: one for each disk and class of a
# mount that comes back. When that ends all of them are tried again, 100 us each.
WAITING_CREATES_PER_NODE_MAX: Final = 256
# LOCK, CHANGE_NOTIFY, CREATE and long SET_ZERO_DATA requests that wait, per connection (each holds a credit as well).
ASYNC_PER_CONNECTION_MAX: Final = 512
# Changes kept for the next CHANGE_NOTIFY of an open, and their size as they are told. Past either the initiator is told
# to list the directory anew, which it has to be able to do anyway.
NOTIFY_CHANGES_MAX: Final = 256
NOTIFY_CHANGES_MAX_BYTES: Final = 32 * KIB
# Replies a peer does not fetch: past this the exporter stops reading from it.
SEND_QUEUE_MAX_BYTES: Final = 64 * MIB
# The same in frames, of which the small ones take more memory than their bytes: twice what all credits can ask for.
SEND_QUEUE_FRAMES_MAX: Final = 16384
# The same for a peer that is not logged in, whose replies are all small.
SEND_QUEUE_UNAUTHENTICATED_MAX_BYTES: Final = 64 * KIB
# A peer that takes none of the replies that wait for it is given up after half to all of this.
CONNECTION_DEAD_AFTER_S: Final = 20.0
# A stopping exporter lets requests in flight end for this long.
DRAIN_TIMEOUT_S: Final = 10.0
# Log lines that peers can cause at will; the rest is counted.
PEER_LOG_LINES_PER_S: Final = 2.0
PEER_LOG_LINES_BURST: Final = 50
# meshctl connections at once, and the longest line of one.
CONTROL_CONNECTIONS_MAX: Final = 16
CONTROL_LINE_MAX_BYTES: Final = 64 * KIB

# --- the exporter's processor ---------------------------------------------------------

# A turn of one node's applications while others have turns, too: about ten requests of 4 KiB, so that looking for
# newcomers costs little, and less than a read of a fast disk takes, so that waiting for it is not what one notices.
TURN_S: Final = 0.0002
# A turn of the system is in an application's way. Shorter ones would be one request each.
TURN_SYSTEM_S: Final = 0.0001
# A flow that has used this much of the processor's time alone has longer turns, until another flow has a turn.
TURN_ALONE_AFTER_S: Final = 0.05
TURN_ALONE_S: Final = 0.0005
# Charged at most for a turn that nobody waited for. A login and the largest messages take less, so a longer turn was
# mostly another process's time.
UNCONTENDED_CHARGE_MAX_S: Final = 0.002
# Charged at most for taking one answer from a disk, which takes 5 to 10 us.
COMPLETION_CHARGE_MAX_S: Final = 0.00005
# What is received, and what is sent, in one step while others wait: 0.1 ms of copying.
TURN_STEP_BYTES: Final = 256 * KIB
# Larger replies to READ are signed and sent in turns of their own, behind the small ones.
REPLY_SMALL_MAX_BYTES: Final = 64 * KIB
# All strangers together get a quarter of what one node gets. An address of the config is none, also before a login.
STRANGERS_WEIGHT: Final = 0.25

# --- the scratch share ----------------------------------------------------------------

# One file may have it all, and is zeroed up to where it is written: 50 ms in which nothing else is served.
SCRATCH_SIZE_MAX_BYTES: Final = 256 * MIB
# Empty files take no bytes of the size, and about 2 KiB of memory: together at most 16 MiB.
SCRATCH_FILES_MAX: Final = 8192
# A listing that has looked at files for this long is answered with what it has, or goes on in a later turn of its node:
# a pattern that no name matches is compared with all names, 3 s for 8192 names of 255 characters.
LISTING_STEP_S: Final = 0.001
# Every walk from a file up to the root ends within this many directories; with names of 255 characters a path then has
# 8192 characters, a quarter of what a CREATE can carry.
SCRATCH_DEPTH_MAX: Final = 32
# Opens of directories that are notified of changes: each change anywhere may be one for all of them, 1 us each. Of one
# node no more than the second, so that it leaves room for others.
SCRATCH_WATCHERS_MAX: Final = 512
SCRATCH_WATCHERS_PER_NODE_MAX: Final = 64
# The holder of an oplock has this long to acknowledge a break; smbclient waits 20 s for its CREATE.
OPLOCK_BREAK_TIMEOUT_S: Final = 10.0
OPLOCK_BREAK_TICK_S: Final = 1.0

# --- disks ----------------------------------------------------------------------------

# Requests at the device at once; the scheduler keeps the rest.
DISK_DEPTH_MAX: Final = 64
# SQEs of the io_uring, filled once a batch (64 bytes each), and what it may have in flight
# (16 bytes each; a power of two as the kernel wants it). More waits in the engine's backlog.
URING_SQ_ENTRIES: Final = 256
URING_CQ_ENTRIES: Final = 4096
# In flight in a Linux AIO context; all contexts of a machine share fs.aio-max-nr (65536).
AIO_IN_FLIGHT_MAX: Final = 1024
# Threads of the last resort: as many requests block at once, of all disks together.
DISK_THREADS_MAX: Final = 16
# An exporter that was just killed holds its disks until its in-flight I/O ended.
DISK_CLAIM_TIMEOUT_S: Final = 5.0
DISK_CLAIM_RETRY_S: Final = 0.05
# A request the kernel answers with EAGAIN goes again this often before that is its result.
DISK_AGAIN_MAX: Final = 100
# A range that no fallocate(2) can zero is written by requests of this size, from memory all disks share.
ZERO_WRITE_BYTES: Final = 1 * MIB
# A failing disk is ok again after this long without an error: longer than md, a RAID or a drive's own recovery takes
# between two errors of one fault, so that a fault is one change of the state and not many.
DISK_STEADY_S: Final = 30.0
# The kernel says when a device comes, goes or grows; it does not say so of images, nor inside a container.
DISK_CHECK_S: Final = 5.0
# A look at a disk, or an attempt to open one, takes milliseconds unless its file system or device is stuck.
DISK_CALL_TIMEOUT_S: Final = 5.0
# A disk that is missing is tried again, first soon (a link of udev that is still being made), then ever more rarely.
DISK_RETRY_MIN_S: Final = 1.0
DISK_RETRY_MAX_S: Final = 30.0
# A device's events come in bursts, and udev makes its links within about this time: one look, not ten.
DEVICE_SETTLE_S: Final = 0.1
# Messages of the kernel about devices taken at once, 2 us each; a storm of them must not keep the loop.
DEVICE_MESSAGES_MAX: Final = 1024
# A disk that leaves the config may have I/O in flight that never ends; a reload waits no longer than this for it.
DISK_WITHDRAW_TIMEOUT_S: Final = 5.0
# A zeroing goes to its disk in pieces: the first is as large as the largest write; one that takes longer than
# ZERO_PIECE_S is followed by a smaller one, so that others wait for it no longer than for a large write of an HDD.
ZERO_PIECE_BYTES: Final = 8 * MIB
ZERO_PIECE_MIN_BYTES: Final = 1 * MIB
ZERO_PIECE_MAX_BYTES: Final = 256 * MIB
ZERO_PIECE_S: Final = 0.04
# What an initiator asks an owner to zero at once, where that is quick: a terabyte takes a thousand requests.
ZERO_REQUEST_MAX_BYTES: Final = 1024 * MIB
# What all peers together may make an exporter hold (exporter/memory_budget.py): a node alone has half of it, the 64 MiB
# that keep one of its channels busy four times over; ten nodes that take what they can have 46 MiB each.
MEMORY_MAX_BYTES: Final = 512 * MIB
# A node may always take more below this, whatever others hold: a read and a write of the largest size at once.
MEMORY_PER_NODE_MIN_BYTES: Final = 24 * MIB
# While somebody waits for memory, a connection that holds some must go on: half a frame that grows by less within
# CONNECTION_DEAD_AFTER_S / 2, or a peer that takes less of its replies, is ended. The slowest link takes 10 KB/s.
MEMORY_HELD_MIN_PROGRESS_BYTES: Final = 100 * KIB
# Free memory each buffer pool keeps for reuse instead of returning it.
BUFFER_POOL_IDLE_MAX_BYTES: Final = 64 * MIB

# --- scheduler ------------------------------------------------------------------------

# What the system class gets at least when applications want everything: the seed's 20 %.
SYSTEM_FLOOR: Final = 0.2
# With less the system makes no progress one can see, with more it is not the lesser class any more.
SYSTEM_FLOOR_MIN: Final = 0.01
SYSTEM_FLOOR_MAX: Final = 0.9
# A flow of weight 0.01 beside one of 1000 gets a hundred-thousandth of a disk: one request in
# several seconds, the least that can still be called progress within io_timeout_s.
FLOW_WEIGHT_MIN: Final = 0.01
FLOW_WEIGHT_MAX: Final = 1000.0
# Flows whose shares a disk remembers: both classes of 128 nodes. 8 KiB each, 50 KiB of a busy one.
FLOWS_PER_DISK_MAX: Final = 256
# Below one request, or one page, a second even the smallest I/O ends in ETIMEDOUT rather than late.
LIMIT_IOPS_MIN: Final = 1.0
LIMIT_BYTES_PER_S_MIN: Final = 4096.0
# How much of a limit may leave early: timers are late by a millisecond or a few, and the rate must be met all the same.
LIMIT_BURST_S: Final = 0.01
# Requests that take this much of a disk's time together are always sent: a fast disk needs that much to be
# busy while its exporter does something else, and a newcomer waits no longer than that.
DISK_BUDGET_MIN_S: Final = 0.004
# Sending requests to a disk that answers within the call ends after this, and goes on in the next round of the event
# loop: as long as a turn of the processor (TURN_S).
PUMP_S: Final = 0.0002
# What goes to a disk in one call: 0.1 ms of copying out of the page cache, where it is there (TURN_STEP_BYTES).
PUMP_BATCH_BYTES: Final = 256 * KIB
# What a request counts there beside its bytes: sending it and taking its answer cost as much as copying these.
PUMP_REQUEST_BYTES: Final = 8 * KIB
# Of the depth at a disk, what the system may have while an application is active. A depth that keeps
# the disk busy is a little deeper than the disk serves at once, and the rest waits inside it.
SYSTEM_DEPTH_SHARE: Final = 0.75
# An application that asks less often than this is not worth leaving a disk idle for.
APP_ACTIVE_S: Final = 0.05
# What was learnt of a disk since is lost in a crash; a few seconds of load bring it back.
CALIBRATION_SAVE_S: Final = 60.0
# A failed flush is answered when it is noted in the state folder, whose disk may hang: after this at the latest.
LOSS_KEEP_TIMEOUT_S: Final = 5.0
# A flush that takes longer than this may be failing, and is noted as a loss until it succeeds; a healthy one takes as
# long only where the page cache holds gigabytes.
FLUSH_DOUBT_S: Final = 3.0
# Past what any disk does; a limit above these is a mistake in its unit.
LIMIT_IOPS_MAX: Final = 1e9
LIMIT_BYTES_PER_S_MAX: Final = 1e13

# The cost model. A request's fixed cost: memory behind a loop takes 1 us, a tape-like device 10 s.
COST_FIXED_MIN_S: Final = 1e-7
COST_FIXED_MAX_S: Final = 10.0
# A byte's: 1 TB/s to 100 KB/s.
COST_BYTE_MIN_S: Final = 1e-12
COST_BYTE_MAX_S: Final = 1e-5
# The size whose bytes cost as much as its fixed part: below a sector, or beyond every request,
# one of the two is noise to every load, and the other carries the whole cost.
COST_BREAK_EVEN_MIN_BYTES: Final = 256
COST_BREAK_EVEN_MAX_BYTES: Final = 64 * MIB
# A write, and a flush, beside a read: SMR drives and flash without a cache stay below these factors.
COST_WRITE_RATIO_MAX: Final = 100
COST_FLUSH_RATIO_MAX: Final = 1000
# Saturated windows (0.1 to 1 s each) after which a cost model counts as calibrated.
COST_CALIBRATED_WINDOWS: Final = 20
# Requests at a device start at this many: an SSD of 8 channels is busy, an HDD has most of what its
# queue can do, and a newcomer waits for 8 requests, not for 64.
DEPTH_START: Final = 8
# A device that answers in less than this at the depth in force needs no reduction of it.
DEPTH_LATENCY_TARGET_S: Final = 1e-3
# Throughput that may be given up for a shallower depth, of what the best depth has.
DEPTH_LOSS_MAX: Final = 0.02

# --- initiator ------------------------------------------------------------------------

# The time that the kernel gives a SCSI command, so that programs know how to wait for it.
IO_TIMEOUT_S: Final = 30.0
# TCP repeats a lost SYN after 1 s and 3 s; both repetitions fit.
CONNECT_TIMEOUT_S: Final = 5.0
# Mounting itself takes some milliseconds. Whoever waits longer for another mount at the place goes on by itself.
MOUNT_TURN_S: Final = 5.0
# A restarted exporter is found at once, one that stays away is asked seldom: the delay doubles from one to the other.
RECONNECT_DELAY_MIN_S: Final = 0.05
RECONNECT_DELAY_MAX_S: Final = 2.0
# Receiving a large message wakes nobody for less than this; that some of it came is seen at every tick.
LOW_WATER_MAX_BYTES: Final = 512 * KIB
# A channel with requests outstanding that hears nothing for the first probes with ECHO,
# and is given up after the second.
CHANNEL_PROBE_AFTER_S: Final = 1.0
CHANNEL_SILENCE_MAX_S: Final = 5.0
# So much of a message that is not whole yet is a sign of life, and less is none: on the slowest link, of 10 KB/s, it
# comes within CHANNEL_DEAD_AFTER_MIN_S, and the answers to all probes of CHANNEL_SILENCE_MAX_S are less.
CHANNEL_PROGRESS_MIN_BYTES: Final = 4 * KIB
# Deadlines, probes and silence are looked at this often, by one task per channel.
CHANNEL_TICK_S: Final = 0.25
# An idle channel is probed too, so that "connected" is never older than this.
CHANNEL_IDLE_PROBE_S: Final = 5.0
# Receives in a row before other tasks get their turn.
CHANNEL_RECEIVES_MAX: Final = 16
# A login, a tree connect or an open takes milliseconds; an exporter that is slower is away.
HANDSHAKE_TIMEOUT_S: Final = 10.0
# With other paths to log in by, one that says nothing is not waited for that long.
LOGIN_BESIDE_OTHERS_S: Final = 2.5
# A disk the exporter refuses to open is asked for again this often while it has users.
REOPEN_DELAY_S: Final = 1.0
# An exporter that answers CHANGE_NOTIFY at once, over and over, is asked again after this, not in a loop. A change
# that comes in between shows that much later.
CHANGES_PAUSE_S: Final = 0.25
# The same for each disk of a long list: to decode a disk and put it into the tree takes 70 us, so a list that is new
# each time takes 4 % of the mount's time.
CHANGES_PAUSE_PER_DISK_S: Final = 0.002
# An exporter tells of changes; a list of disks is asked for this often all the same.
DISKS_REFRESH_S: Final = 30.0
# A request the exporter could not take for now (lost open, no resources) goes again after this.
RETRY_DELAY_MIN_S: Final = 0.01
RETRY_DELAY_MAX_S: Final = 0.5
# After a call timed out the mount asks the disk itself; later calls wait this long for the answer before they fail.
PROBE_PATIENCE_S: Final = 1.0
# A whole block of every disk there is, so that its exporter can read it past the page cache.
PROBE_BYTES: Final = 4 * KIB
# ACCESS_DENIED to what an open may do is taken for a sign that the request was changed on its way, at most so often
# within this time. Each time a connection is ended, so a server that means its refusal must not lose them all.
DENIALS_MAX: Final = 3
DENIALS_WINDOW_S: Final = 60.0
# What a handle's close may wait for the last answers.
CLOSE_TIMEOUT_S: Final = 5.0

# --- multichannel ---------------------------------------------------------------------

# Channels of one pair of interfaces unless the config says otherwise, and at most.
CHANNELS_PER_PATH: Final = 1
CHANNELS_PER_PATH_MAX: Final = 8
# Message ids that a session's first connection leaves to its binds, which are signed with the same key: three
# for each, so for 85 of them; then the session is made anew. Under AES-GMAC an exporter takes no other ids for binds.
BIND_MESSAGE_IDS: Final = 256
# Intervals of nonces of encrypted messages that a session of several channels remembers, 80 bytes each. Where the peer
# counts, there is one for each message that is late or was lost; where it draws nonces at random, one for each message.
NONCES_REMEMBERED_MAX: Final = 16384
# A channel that says nothing for this long while others of the session do is given up.
CHANNEL_DEAD_AFTER_S: Final = 1.0
CHANNEL_DEAD_AFTER_MIN_S: Final = 0.5
# With others to go on by, a silent one is asked earlier than alone.
CHANNEL_PROBE_BESIDE_OTHERS_S: Final = 0.5
# A channel that lived less is no proof that its path works: it may pass what is small, logins and probes, and
# swallow the rest, and each new channel on it costs somebody a wait until its silence is found.
PATH_STEADY_AFTER_S: Final = 10.0
# An exporter that took no further channel of a session is asked again: it may have had others of ours that were
# dead, which it notices after CONNECTION_DEAD_AFTER_S at the latest.
BIND_AGAIN_S: Final = 30.0
# Addresses that an exporter may tell of: no more channels than CHANNELS_PER_SESSION_MAX can be used at once, and with
# two networks each of those may have an address in both.
REMOTES_MAX: Final = 64
# The interfaces of an exporter are asked for again this often, and when a path fails.
INTERFACES_REFRESH_S: Final = 30.0
# A path is broken, and the next slower ones step in, when it could not be connected for this long.
PATH_BROKEN_AFTER_S: Final = 2.0

# --- event loop -----------------------------------------------------------------------

# A callback that fails this often within a second fails at each of its calls, and would do nothing else.
CALLBACK_FAILURES_MAX_PER_S: Final = 100

# --- sockets --------------------------------------------------------------------------

# Unix sockets do not size their buffers by themselves; the default takes 208 KiB at a time.
UNIX_SOCKET_BUFFER_BYTES: Final = 4 * MIB
# Connections at an exporter's Unix socket that get them, when they are logged in: kernel memory of 256 MiB at the most.
# Two mounts with all their channels there have as many.
UNIX_SOCKETS_LARGE_MAX: Final = 64
# A peer that died without a word: found after 5 + 3 * 2 s when idle, and when data is unacknowledged.
TCP_KEEPALIVE_IDLE_S: Final = 5
TCP_KEEPALIVE_INTERVAL_S: Final = 2
TCP_KEEPALIVE_COUNT: Final = 3
TCP_USER_TIMEOUT_MS: Final = 10_000

# --- network interfaces ---------------------------------------------------------------

# What is told of a link whose driver tells no speed (virtio, loopback): a gigabit, as Samba assumes.
LINK_SPEED_ASSUMED_BITS_S: Final = 1_000_000_000
# A link that comes up is followed by its addresses and routes within milliseconds: one change, not ten.
INTERFACES_SETTLE_S: Final = 0.05
# After a look at them that failed, for want of a file descriptor.
INTERFACES_RETRY_S: Final = 1.0
# Netlink messages taken at once, 1 us each; a machine whose routes never rest must not keep the loop.
INTERFACE_MESSAGES_MAX: Final = 4096

# --- mount ----------------------------------------------------------------------------

# An exporter's list of disks, which costs its length in credits each time it is asked for: a thousand disks.
DISK_LIST_MAX_BYTES: Final = 1 * MIB
# Disks one exporter may announce; the largest chassis hold about a hundred. A list of so many takes 70 ms, in which the
# mount does nothing else.
DISKS_PER_NODE_MAX: Final = 1024
# Faults of an exporter's disk list are told of so many disks; each is a line of the status and of the log.
DISK_PROBLEMS_PER_NODE_MAX: Final = 16
# Paths whose inode numbers are remembered after they are gone.
INODES_REMEMBERED_MAX: Final = 1 << 18
# FUSE requests of one mount being worked on at once. I/O that waits for a lost exporter or a hung disk holds a
# worker each, and the kernel hands all requests over in one queue: at the limit every other disk stands still.
# A worker that waits takes 10 KiB (and 1 MiB of address space), so all of them take 80 MiB.
FUSE_WORKERS_MAX: Final = 8192
# Of those, what the kernel calls background: readahead, libaio, io_uring, and every O_DIRECT request, also of a
# thread that waits for it. The rest is left to stat, open and buffered I/O, so that a disk that waits does not
# stop `ls`. The kernel takes 16 bits, and of a mount of others than root at most its own max_user_bgreq.
FUSE_BACKGROUND_MAX: Final = 7168
# Data of writes that wait takes twice its size here. Past this no request is taken from the kernel, else programs
# that write to a dead disk in large pieces could fill the memory.
FUSE_WRITES_MAX_BYTES: Final = 512 * MIB
# An open with O_TRUNC is two requests of one thread, the second right behind the first; see fuse/truncating.py.
FUSE_TRUNCATE_WITHIN_S: Final = 10.0
# Pages that others hold locked, or whose writing back waits for an owner, are not waited for longer than this
# before zeros are written under them.
FUSE_DROP_PAGES_TIMEOUT_S: Final = 1.0
# The same for pages that are locked by the very request that is to be answered afterwards, if any are.
FUSE_DROP_OWN_PAGES_TIMEOUT_S: Final = 0.02
# An unmount flushes at the owners what was written and not flushed; systemd gives the process 90 s to end.
UMOUNT_FLUSH_TIMEOUT_S: Final = 10.0
# stat(2) of a disk asks its owner when it was last written; a busy owner answers in milliseconds, and one that does
# not answer must not make `ls` slow.
ASK_DISK_TIMEOUT_S: Final = 0.5
# While an owner is down, one such question in this time tries to reach it, as it may just have come back; the others
# are answered with what is known.
ASK_DISK_AGAIN_S: Final = 1.0
# How long the kernel may keep names and attributes without asking again.
FUSE_ATTRIBUTES_VALID_S: Final = 1.0
FUSE_READ_AHEAD_KIB: Final = 1024
# A starting mount waits this long for exporters to connect; those that are down come later.
MOUNT_SETTLE_S: Final = 5.0
# With -o wait=..., a starting mount waits this long for its disks unless told otherwise: an exporter that starts at
# the same boot needs seconds, and mount(8) must end before systemd gives it up (DefaultTimeoutStartSec, 90 s).
MOUNT_WAIT_S: Final = 30.0
# A mount that is asked to end and is in use goes on for this long: below the 90 s (DefaultTimeoutStopSec) after which
# systemd kills it, and long enough for a file system on a disk of the mesh to write what it has.
UNMOUNT_BUSY_S: Final = 80.0
UNMOUNT_RETRY_S: Final = 0.2
# How long `meshctl wait` waits for disks, which a unit or a script calls on its own.
WAIT_S: Final = 60.0
# A disk that is waited for is looked for this often.
WAIT_POLL_S: Final = 0.2

# A reload reads the config and the keys and makes no connection: what takes longer is a file system that hangs.
RELOAD_TIMEOUT_S: Final = 30.0

# --- metrics --------------------------------------------------------------------------

# Prometheus asks with one connection at a time; a second server and a curious person are welcome.
METRICS_CONNECTIONS_MAX: Final = 4
# Connections that the kernel completed and nobody accepted yet; a full backlog would turn Prometheus away.
METRICS_BACKLOG: Final = 128
# Each step of a client: its request, taking the answer. Prometheus itself gives up after 10 s.
METRICS_CLIENT_TIMEOUT_S: Final = 5.0
METRICS_SNAPSHOT_TIMEOUT_S: Final = 5.0
METRICS_ACCEPT_RETRY_S: Final = 0.1
# Formatting stands aside for I/O after this many lines, about 0.3 ms of work.
METRICS_STEPS_MAX: Final = 64
METRICS_REST_S: Final = 0.0002

# --- problems -------------------------------------------------------------------------

# A process looks this often whether something began or ended to be a problem: what is over sooner was none.
PROBLEMS_LOOK_S: Final = 5.0
# Errors and refusals are counted over this time, which is what an administrator calls "now".
PROBLEMS_WINDOW_S: Final = 60.0
# A disk that takes longer than this for one request is stuck for whoever waits; a spinning one retries for 7 s.
PROBLEM_IO_WAIT_S: Final = 10.0
# A path lost this often within the window is not steady; once is what a cable that is moved gives.
PROBLEM_PATH_LOSSES: Final = 3
# A node that logs in before its key was copied tries several times; more than this is a stranger or a wrong key.
PROBLEM_LOGINS_REFUSED: Final = 5
# One broken message may be a port scanner's.
PROBLEM_FRAMES_BROKEN: Final = 5
# A wrong signature on a session's connection is no scanner's and no mistake in a key: one is worth a look.
PROBLEM_FORGERIES: Final = 1
# Use of a limit that leaves little for the next node.
PROBLEM_LIMIT_SHARE: Final = 0.9

# --- config and keys ------------------------------------------------------------------

# 416 disks take 60 KiB; a path to a device or a log file by mistake must not fill the memory.
CONFIG_MAX_BYTES: Final = 4 * MIB
# Reading it and the keys takes milliseconds. On a file system that is stuck a reload is given up: a stop must be heard.
CONFIG_READ_TIMEOUT_S: Final = 10.0
IO_TIMEOUT_MIN_S: Final = 1.0
IO_TIMEOUT_MAX_S: Final = 3600.0
NODE_WEIGHT_MAX: Final = 1000
# sun_path has 108 bytes with its NUL (unix(7)).
UNIX_PATH_MAX_BYTES: Final = 107
# A key file is 45 bytes.
KEY_FILE_MAX_BYTES: Final = 1024
# One SPNEGO token; NTLMv2's largest are below 4 KiB.
AUTH_TOKEN_MAX_BYTES: Final = 16 * KIB
# A control socket's or a mount's status: 64 nodes of 64 disks are below 4 MiB.
STATUS_MAX_BYTES: Final = 16 * MIB
CONTROL_TIMEOUT_S: Final = 5.0
