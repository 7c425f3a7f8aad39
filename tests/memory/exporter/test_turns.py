"""The exporter's processor in turns: a batch ends after its time, nodes and classes share turns, and nothing is left.

The processor's clock advances at each look. So no assertion depends on the speed of the machine.
"""

from meshfs import limits
from meshfs.exporter.kinds.disk import io as disk_io
from meshfs.exporter.rules.admission import LOCAL
from meshfs.exporter.rules.turns import newcomers_of
from meshfs.exporter.serving import engine
from meshfs.model import FlowKey, IoClass
from meshfs.smb.constants import Command
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import make_exporter
from meshlab.smb.raw_messages import read_body, write_body
from support.turns import all_at_once, client_of, in_thread, serving
from support.waiting import until


def served(exporter, monkeypatch):
    """Note the node and the class of each READ, WRITE and ECHO, in the order in which the exporter begins with them."""
    order: list[tuple[str, str]] = []
    real = engine.serve

    def serve(request):
        if request.message.command in (Command.READ, Command.ECHO, Command.WRITE):
            session = request.peer.sessions[request.session_id]
            tree = session.trees.get(request.tree_id)
            order.append((session.user, str(tree.io_class) if tree else "none"))
        real(request)

    monkeypatch.setattr(engine, "serve", serve)
    return order


async def test_time_ends_a_batch_and_another_node_has_its_turn(tmp_path, monkeypatch):
    """A request that comes after a hundred of another node waits for one turn, and not for all hundred."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(4 << 20))
    async with serving(server, path):
        flood, light = await in_thread(client_of, path, "n3"), await in_thread(client_of, path, "n2")
        files = {client: await in_thread(client.open, "disk0") for client in (flood, light)}
        order = served(server, monkeypatch)
        many = [flood.pack(Command.READ, read_body(files[flood], 4096 * n, 4096)) for n in range(100)]
        one = [light.pack(Command.READ, read_body(files[light], 0, 4096))]
        replies = await all_at_once((flood, many), (light, one))
        assert [len(reply.data) for reply in replies[0]] == [4096] * 100
        assert len(replies[1][0].data) == 4096
        with flood, light:
            pass
    assert len(order) == 101
    assert order.index(("n2", "app")) < 20


async def test_requests_of_one_connection_keep_their_order(tmp_path):
    """Although turns end in the middle of them, a READ behind a WRITE of the same place returns the written data."""
    disk = MemoryDisk(4 << 20)
    path, server = tmp_path / "n1.sock", make_exporter(disk0=disk)
    async with serving(server, path):
        with await in_thread(client_of, path) as client:
            file_id = await in_thread(client.open, "disk0")
            frames = []
            for n in range(100):
                data = bytes([n]) * 512
                frames.append(client.pack(Command.WRITE, write_body(file_id, 0, data)))
                frames.append(client.pack(Command.READ, read_body(file_id, 0, 512)))
            (replies,) = await all_at_once((client, frames))
            assert [reply.data[0] for reply in replies[1::2]] == list(range(100))


async def test_the_system_waits_for_applications_and_keeps_its_floor(tmp_path, monkeypatch):
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(4 << 20))
    async with serving(server, path):
        system = await in_thread(client_of, path, "n3", "disks-system")
        app = await in_thread(client_of, path, "n2")
        files = {client: await in_thread(client.open, "disk0") for client in (system, app)}
        order = served(server, monkeypatch)
        floods = [
            (client, [client.pack(Command.READ, read_body(files[client], 4096 * n, 4096)) for n in range(300)])
            for client in (system, app)
        ]
        await all_at_once(*floods)
        with system, app:
            pass
    assert len(order) == 600
    # The requests of the system came first. Until the applications are done, it gets little more than its floor.
    last_app = max(index for index, (_, io_class) in enumerate(order) if io_class == "app")
    of_system = [io_class for _, io_class in order[:last_app]].count("system")
    assert 300 * 0.2 / 0.8 * 0.5 < of_system < 300 * 0.2 / 0.8 * 2


async def test_small_replies_leave_before_large_ones_of_another_node(tmp_path):
    """If one round completes megabytes of a node and then a small reply of another, the small one is sent first."""
    disk = MemoryDisk(32 << 20)
    path, server = tmp_path / "n1.sock", make_exporter(disk0=disk)
    sent: list[tuple[str, int]] = []
    async with serving(server, path) as listener:
        flood, light = await in_thread(client_of, path, "n3"), await in_thread(client_of, path, "n2")
        files = {client: await in_thread(client.open, "disk0") for client in (flood, light)}
        disk.stall()
        many = [flood.pack(Command.READ, read_body(files[flood], n << 20, 1 << 20), charge=16) for n in range(8)]
        one = [light.pack(Command.READ, read_body(files[light], 0, 4096))]
        flood.deliver(*(frame for _, frame in many))
        await until(lambda: server.pool.used_bytes >= 8 << 20)
        light.deliver(one[0][1])
        await until(lambda: server.pool.used_bytes > 8 << 20)
        for link in listener._links:
            send, user = link.peer.send, next(iter(link.peer.sessions.values())).user

            def note(frame, buffer=None, send=send, user=user):
                sent.append((user, len(frame)))
                send(frame, buffer)

            link.peer.send = note
        disk.release()
        await in_thread(light.take, one[0][0])
        for message_id, _ in many:
            assert len((await in_thread(flood.take, message_id)).data) == 1 << 20
        with flood, light:
            pass
    assert len(sent) == 9
    assert [user for user, _ in sent].index("n2") <= 1


async def test_a_megabyte_leaves_in_pieces_while_others_have_turns(tmp_path, monkeypatch):
    """The rest of a large reply waits for the node's next turn. A lone node sends as much as its socket takes."""
    disk = MemoryDisk(4 << 20)
    path, server = tmp_path / "n1.sock", make_exporter(disk0=disk)
    most: list[int] = []
    async with serving(server, path) as listener:
        with await in_thread(client_of, path) as client:
            (link,) = listener._links
            real = link._transport.send

            def send(parts):
                most.append(sum(map(len, parts)))
                return real(parts)

            link._transport.send = send
            file_id = await in_thread(client.open, "disk0")
            for alone in (False, True):
                server.processor.turns._alone_s = 1.0 if alone else 0.0
                monkeypatch.setattr(limits, "TURN_ALONE_AFTER_S", 0.5 if alone else 1e9)
                most.clear()
                message_id = client.send(Command.READ, read_body(file_id, 0, 1 << 20), charge=16)
                assert len((await in_thread(client.take, message_id)).data) == 1 << 20
                assert (max(most) > limits.TURN_STEP_BYTES) is alone


async def test_used_processor_time_is_counted_by_node_and_class(tmp_path):
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(4 << 20))
    async with serving(server, path):
        with await in_thread(client_of, path, "n2") as client:
            file_id = await in_thread(client.open, "disk0")
            message_id = client.send(Command.READ, read_body(file_id, 0, 4096))
            await in_thread(client.take, message_id)
        with await in_thread(client_of, path, "n3", "disks-system") as client:
            file_id = await in_thread(client.open, "disk0")
            message_id = client.send(Command.READ, read_body(file_id, 0, 4096))
            await in_thread(client.take, message_id)
    used = {flow.key: flow.used_s for flow in server.processor.turns.flows()}
    assert used[newcomers_of(LOCAL)] > 0
    assert used["n2", IoClass.APP] > 0
    assert used["n3", IoClass.SYSTEM] > 0
    assert used.get(FlowKey("n2", IoClass.SYSTEM), 0) == 0


async def test_a_lone_node_needs_no_turn_for_its_answers_until_another_node_comes(tmp_path):
    disk = MemoryDisk(4 << 20)
    path, server = tmp_path / "n1.sock", make_exporter(disk0=disk)

    def read(client, file_id, count):
        for number in range(count):
            assert client.call(Command.READ, read_body(file_id, 4096 * number, 4096)).status == 0

    async with serving(server, path):
        flow = server.processor.turns.flow(FlowKey("n2", IoClass.APP))
        with await in_thread(client_of, path, "n2") as client:
            file_id = await in_thread(client.open, "disk0")
            await in_thread(read, client, file_id, 500)
            assert server.processor.turns.alone is flow
            # From here on, the disk answers after the turn of the request.
            disk.delay_s = 0.001
            turns, used_s = flow.turns, flow.used_s
            await in_thread(read, client, file_id, 50)
            assert flow.turns - turns == 50, "each request takes a turn, and its answer takes none"
            assert flow.used_s - used_s > 50 * limits.TURN_S / 4
            with await in_thread(client_of, path, "n3") as other:
                await in_thread(other.open, "disk0")
                assert server.processor.turns.alone is not flow
                await in_thread(read, client, file_id, 1)


async def test_one_bad_reply_ends_its_connection_and_no_turn(tmp_path, monkeypatch):
    """If a fault of ours ends one reply in the middle of a turn, the other replies of the turn are still sent."""
    disk = MemoryDisk(4 << 20)
    path, server = tmp_path / "n1.sock", make_exporter(disk0=disk)
    async with serving(server, path):
        bad, good = await in_thread(client_of, path, "n2"), await in_thread(client_of, path, "n2")
        files = {client: await in_thread(client.open, "disk0") for client in (bad, good)}
        real = disk_io._send_read

        def send_read(request, buffer, length):
            if request.open.file_id == files[bad]:
                buffer.release()
                raise RuntimeError("a fault of ours")
            real(request, buffer, length)

        monkeypatch.setattr(disk_io, "_send_read", send_read)
        disk.stall()
        bad.send(Command.READ, read_body(files[bad], 0, 4096))
        await until(lambda: server.pool.used_bytes > 0)
        ids = [good.send(Command.READ, read_body(files[good], 0, 4096)) for _ in range(3)]
        await until(lambda: server.pool.used_bytes >= 4 * 4096)
        disk.release()
        for message_id in ids:
            assert len((await in_thread(good.take, message_id)).data) == 4096
        await until(lambda: len(server.peers) == 1)
        with bad, good:
            pass
