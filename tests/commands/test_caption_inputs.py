"""Whole runs over manifests, archives, URLs and shards: every input once, its columns with it, and resumed exactly.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter

import pytest
from PIL import Image
from support.http_server import Answer, serving


def picture(number=0):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 1), (number % 256, number // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, count, mode="w", first=0):
    with tarfile.open(path, mode) as archive:
        for number in range(first, first + count):
            for suffix, content in ((".png", picture(number)), (".json", b'{"n": %d}' % number)):
                member = tarfile.TarInfo(f"{number:04}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def outcome(omnicap, name="out.jsonl"):
    return {record["id"]: record["error"]["kind"] if "error" in record else "ok" for record in omnicap.records(name)}


# --- manifests


def test_a_prompt_is_filled_from_the_columns_of_each_row(omnicap, make_pictures):
    make_pictures(3)
    (omnicap.folder / "m.csv").write_text("image,title\nin/0000.png,cats\nin/0001.png,\nin/0002.png,{x}\n")
    run = omnicap.run("m.csv", "--prompt", "What of {title}?", "-o", "out.jsonl")
    assert run.returncode == 0, run.stderr
    records = omnicap.records()
    assert [record["prompt"] for record in records] == ["What of cats?", "What of ?", "What of {x}?"]
    assert [record["meta"] for record in records] == [{"title": "cats"}, {"title": ""}, {"title": "{x}"}]
    assert len({record["prompt_sha"] for record in records}) == 3


def test_a_changed_column_runs_only_the_rows_that_it_changes(omnicap, make_pictures):
    make_pictures(3)
    rows = ["image,title,note", "in/0000.png,a,x", "in/0001.png,b,x", "in/0002.png,c,x"]
    (omnicap.folder / "m.csv").write_text("\n".join(rows))
    words = ("m.csv", "--prompt", "What of {title}?", "-o", "out.jsonl")
    assert omnicap.run(*words).returncode == 0
    rows[1:3] = ["in/0000.png,a,changed", "in/0001.png,changed,x"]
    (omnicap.folder / "m.csv").write_text("\n".join(rows))
    begun = len(omnicap.begun)
    assert omnicap.run(*words).returncode == 0
    assert len(omnicap.begun) == begun + 1
    assert omnicap.records()[-1]["prompt"] == "What of changed?"


def test_a_row_without_the_column_of_the_prompt_fails_alone(omnicap, make_pictures):
    make_pictures(2)
    lines = ['{"image": "in/0000.png", "title": "cats"}', '{"image": "in/0001.png"}']
    (omnicap.folder / "m.jsonl").write_text("\n".join(lines))
    run = omnicap.run("m.jsonl", "--prompt", "What of {title}?", "-o", "out.jsonl")
    assert run.returncode == 3
    assert outcome(omnicap) == {"in/0000.png": "ok", "in/0001.png": "ManifestError"}


def test_the_catalogues_own_prompts_are_not_in_the_record(omnicap, make_pictures):
    make_pictures(1)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert "prompt" not in omnicap.records()[0]


def test_a_users_catalogue_is_in_the_record_where_it_differs(omnicap, make_pictures):
    make_pictures(1)
    (omnicap.folder / "p.toml").write_text('[types.natural.styles.short.en]\nuser = "In one word?"\n')
    words = ("in", "--prompts", "p.toml", "--style", "short,tag", "-o", "out.jsonl")
    assert omnicap.run(*words).returncode == 0
    assert {record["style"]: record.get("prompt") for record in omnicap.records()} == {
        "short": "In one word?",
        "tag": None,
    }


def test_a_broken_manifest_ends_nothing_else(omnicap, make_pictures):
    make_pictures(2)
    (omnicap.folder / "no-column.csv").write_text("file\nin/0000.png\n")
    (omnicap.folder / "broken.jsonl").write_text('{"image": "in/0000.png"}\n{"imag\n')
    (omnicap.folder / "m.parquet").write_bytes(b"nonsense")
    run = omnicap.run("no-column.csv", "broken.jsonl", "m.parquet", "gone.tsv", "in/0001.png", "-o", "out.jsonl")
    assert run.returncode == 3
    assert outcome(omnicap) == {
        "no-column.csv": "ManifestError",
        "in/0000.png": "ok",
        "broken.jsonl#line=2": "ManifestError",
        "m.parquet": "ManifestError",
        "gone.tsv": "NotFoundError",
        "in/0001.png": "ok",
    }
    assert "--image-key" in run.stderr


# --- archives


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_captioned_and_resumed(omnicap, mode):
    name = "x.tar" if mode == "w" else "x.tar.gz"
    write_tar(omnicap.folder / name, 30, mode)
    first = omnicap.run(name, "-o", "out.jsonl", "--limit", "10")
    assert first.returncode == 0, first.stderr
    second = omnicap.run(name, "-o", "out.jsonl")
    assert second.returncode == 0, second.stderr
    assert "10 done before" in second.stderr
    records = omnicap.records()
    assert [record["id"] for record in records] == [f"{name}#member={number:04}.png" for number in range(30)]
    assert [record["meta"] for record in records] == [{"n": number} for number in range(30)]
    assert len(omnicap.begun) == 30


def test_captions_of_an_archive_are_those_of_its_files(omnicap, make_pictures):
    """The fake engine's caption ends in a hash of the content: in place, and as it streams by."""
    ids = make_pictures(5)
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(omnicap.folder / name, mode) as archive:
            archive.add(omnicap.folder / "in", "in")
    assert omnicap.run("in", "x.tar", "x.tar.gz", "-o", "out.jsonl").returncode == 0
    captions = {record["id"]: record["caption"].rsplit("| ", 1)[1] for record in omnicap.records()}
    assert len(captions) == 15
    for each in ids:
        assert captions[each] == captions[f"x.tar#member={each}"] == captions[f"x.tar.gz#member={each}"]


def test_a_truncated_archive_keeps_what_was_there(omnicap):
    write_tar(omnicap.folder / "x.tar", 60)
    whole = (omnicap.folder / "x.tar").read_bytes()
    (omnicap.folder / "x.tar").write_bytes(whole[: len(whole) // 2])
    run = omnicap.run("x.tar", "-o", "out.jsonl")
    assert run.returncode == 3
    found = outcome(omnicap)
    assert found.pop("x.tar") == "DecodeError"
    # 120 members of two blocks each, padded to 133,120 bytes: half of that are 65 of them, a picture first
    assert found == {f"x.tar#member={number:04}.png": "ok" for number in range(33)}


# --- shards


def test_the_union_of_shards_is_the_whole(omnicap, make_pictures):
    make_pictures(23)
    for number in range(5):
        write_tar(omnicap.folder / f"{number}.tar{'.gz' * (number % 2)}", 4, "w:gz" if number % 2 else "w")
    (omnicap.folder / "m.csv").write_text("image,id\n" + "".join(f"in/{n:04}.png,row {n}\n" for n in range(11)))
    (omnicap.folder / "broken.jsonl").write_text("{nonsense\n" * 3)
    inputs = ("in", "0.tar", "1.tar.gz", "2.tar", "3.tar.gz", "4.tar", "m.csv", "broken.jsonl", "gone.png")
    assert omnicap.run(*inputs, "-o", "whole.jsonl").returncode == 3
    whole = Counter(record["key"] for record in omnicap.records("whole.jsonl"))
    assert len(whole) == 23 + 20 + 11 + 3 + 1
    union, archives = Counter(), []
    for index in range(3):
        run = omnicap.run(*inputs, "--shard", f"{index}/3", "-o", "out-{shard}.jsonl")
        assert run.returncode in (0, 3), run.stderr
        records = omnicap.records(f"out-{index}.jsonl")
        union += Counter(record["key"] for record in records)
        archives.append({record["id"].split("#")[0] for record in records if "tar" in record["id"]})
        meta = json.loads((omnicap.folder / f"out-{index}.jsonl.meta.json").read_text())
        assert (meta["shard"], meta["num_requests"]) == (f"{index}/3", len(records))
    assert union == whole
    assert sorted(name for names in archives for name in names) == ["0.tar", "1.tar.gz", "2.tar", "3.tar.gz", "4.tar"]


def test_shards_are_merged_into_a_journal_that_is_complete(omnicap, make_pictures):
    ids = make_pictures(10)
    for index in range(3):
        assert omnicap.run("in", "--shard", f"{index}/3", "-o", "out-{shard}.jsonl").returncode == 0
    merged = omnicap.run("out-0.jsonl", "out-1.jsonl", "out-2.jsonl", "-o", "all.jsonl", command="merge")
    assert merged.returncode == 0, merged.stderr
    assert sorted(record["id"] for record in omnicap.records("all.jsonl")) == ids
    begun = len(omnicap.begun)
    again = omnicap.run("in", "-o", "all.jsonl")
    assert "nothing to do: all 10" in again.stderr
    assert len(omnicap.begun) == begun


def test_a_shard_without_items_is_no_error(omnicap, make_pictures):
    make_pictures(1)
    runs = [omnicap.run("in", "--shard", f"{index}/2", "-o", "out-{shard}.jsonl") for index in range(2)]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("nothing to do" in run.stderr for run in runs) == 1
    merged = omnicap.run("out-0.jsonl", "out-1.jsonl", "-o", "all.jsonl", command="merge")
    assert merged.returncode == 0, merged.stderr
    assert len(omnicap.records("all.jsonl")) == 1


def test_two_shards_dont_share_an_output(omnicap, make_pictures):
    make_pictures(4)
    assert omnicap.run("in", "--shard", "0/2", "-o", "out.jsonl").returncode == 0
    before = omnicap.records()
    run = omnicap.run("in", "--shard", "1/2", "-o", "out.jsonl")
    assert run.returncode == 2
    assert "shard 0/2" in run.stderr
    assert "{shard}" in run.stderr
    assert omnicap.records() == before


def test_a_file_that_is_added_moves_no_other(omnicap, make_pictures):
    make_pictures(12)
    for index in range(3):
        assert omnicap.run("in", "--shard", f"{index}/3", "-o", "out-{shard}.jsonl").returncode == 0
    (omnicap.folder / "in" / "0000-a.png").write_bytes(picture(99))
    for index in range(3):
        assert omnicap.run("in", "--shard", f"{index}/3", "-o", "out-{shard}.jsonl").returncode == 0
    assert len(omnicap.begun) == 13


def test_an_archive_that_one_machine_cant_find_moves_no_other(omnicap):
    names = ["0.tar", "1.tar", "2.tar", "3.tar"]
    for name in names:
        write_tar(omnicap.folder / name, 2)
    assert omnicap.run(*names, "--shard", "0/2", "-o", "out-{shard}.jsonl").returncode == 0
    (omnicap.folder / "1.tar").unlink()
    assert omnicap.run(*names, "--shard", "1/2", "-o", "out-{shard}.jsonl").returncode == 3
    parts = [outcome(omnicap, f"out-{index}.jsonl") for index in (0, 1)]
    assert parts == [
        {f"{name}#member={number:04}.png": "ok" for name in ("0.tar", "2.tar") for number in (0, 1)},
        {"1.tar": "NotFoundError", "3.tar#member=0000.png": "ok", "3.tar#member=0001.png": "ok"},
    ]


def test_what_is_no_shard_is_wrong_usage(omnicap, make_pictures):
    make_pictures(1)
    run = omnicap.run("in", "--shard", "2/2", "-o", "out.jsonl")
    assert run.returncode == 2
    assert "--shard" in run.stderr


# --- URLs


def test_pictures_behind_urls_are_captioned_once(omnicap):
    with serving() as server:
        for number in range(40):
            server.serve(f"/{number}.png", Answer(body=picture(number), headers={"ETag": f'"{number}"'}))
        lines = "".join(server.url(f"/{number}.png") + "\n" for number in range(40))
        (omnicap.folder / "urls.txt").write_text(lines)
        run = omnicap.run("-", "-o", "out.jsonl", stdin=lines.encode())
        assert run.returncode == 0, run.stderr
        assert [record["id"] for record in omnicap.records()] == lines.split()
        again = omnicap.run("-", "-o", "out.jsonl", stdin=lines.encode())
        assert "nothing to do" in again.stderr
        assert sum(seen.method == "GET" for seen in server.seen) == 40


def test_a_password_in_a_url_gets_into_no_file(omnicap):
    with serving() as server:
        server.serve("/a.png", Answer(body=picture()))
        for path in ("/a.png", "/gone.png"):
            omnicap.run(server.url(path, user="me:s3cret"), "-o", "out.jsonl")
        assert {record["status"] for record in omnicap.records()} == {"ok", "error"}
        assert omnicap.records()[0]["id"] == server.url("/a.png")
        assert any("Authorization" in seen.headers for seen in server.seen)
        for name in os.listdir(omnicap.folder):
            assert b"s3cret" not in (omnicap.folder / name).read_bytes()


def test_servers_that_fail_cost_their_own_items(omnicap):
    with serving() as server:
        server.serve("/ok.png", Answer(body=picture()))
        server.serve("/busy.png", Answer(status=500), Answer(status=503), Answer(body=picture()))
        server.serve("/half.png", Answer(body=picture(), stop_after=30))
        server.serve("/file.png", Answer(status=302, headers={"Location": "file:///etc/passwd"}))
        server.serve("/moved.png", Answer(status=301, headers={"Location": "/ok.png"}))
        server.serve("/large.png", Answer(body=picture() + bytes(10_000)))
        names = ["ok", "busy", "half", "file", "moved", "large", "gone"]
        urls = {server.url(f"/{name}.png"): name for name in names}
        run = omnicap.run(*urls, "-o", "out.jsonl", "--retries", "2", "--max-file-bytes", "9000", "--timeout", "5")
        assert run.returncode == 3, run.stderr
        assert {urls[url]: what for url, what in outcome(omnicap).items()} == {
            "ok": "ok",
            "busy": "ok",
            "half": "DownloadError",
            "file": "DownloadError",
            "moved": "ok",
            "large": "TooLargeError",
            "gone": "NotFoundError",
        }


def test_archives_and_manifests_behind_urls(omnicap):
    write_tar(omnicap.folder / "x.tar.gz", 5, "w:gz")
    write_tar(omnicap.folder / "x.tar", 5)
    with serving() as server:
        for name in ("x.tar", "x.tar.gz"):
            server.serve(f"/d/{name}", Answer(body=(omnicap.folder / name).read_bytes(), ranges=True))
        server.serve("/d/a.png", Answer(body=picture(), headers={"ETag": '"1"'}))
        server.serve("/d/m.csv?sig=1", Answer(body=b"image,t\na.png,beside\n"))
        urls = [server.url(f"/d/{name}") for name in ("x.tar", "x.tar.gz", "m.csv?sig=1")]
        run = omnicap.run(*urls, "-o", "out.jsonl")
        assert run.returncode == 0, run.stderr
        base = server.url("/d/")
        names = [f"{each}#member={number:04}.png" for each in ("x.tar", "x.tar.gz") for number in range(5)]
        assert sorted(outcome(omnicap)) == sorted(base + name for name in [*names, "a.png"])
        assert omnicap.records()[-1]["meta"] == {"t": "beside"}
        assert "nothing to do" in omnicap.run(*urls, "-o", "out.jsonl").stderr


def test_an_archive_whose_server_stops_is_read_on(omnicap):
    write_tar(omnicap.folder / "x.tar", 40)
    body = (omnicap.folder / "x.tar").read_bytes()
    with serving() as server:
        server.serve(
            "/x.tar",
            Answer(body=body, stop_after=30_000, ranges=True, headers={"ETag": '"1"'}),
            Answer(body=body, ranges=True, headers={"ETag": '"1"'}),
        )
        run = omnicap.run(server.url("/x.tar"), "-o", "out.jsonl")
        assert run.returncode == 0, run.stderr
        assert len(omnicap.records()) == 40


def test_a_server_that_is_gone_ends_nothing_else(omnicap, make_pictures):
    make_pictures(1)
    with serving() as server:
        dead = server.url("/x.png")
    run = omnicap.run(dead, "in", "-o", "out.jsonl", "--retries", "1")
    assert run.returncode == 3
    assert outcome(omnicap) == {dead: "DownloadError", "in/0000.png": "ok"}


def test_file_urls_are_read(omnicap, make_pictures):
    make_pictures(2)
    base = (omnicap.folder / "in").as_uri()
    assert omnicap.run(base, f"{base}/0000.png", "-o", "out.jsonl").returncode == 0
    assert outcome(omnicap) == {f"{base}/0000.png": "ok", f"{base}/0001.png": "ok"}
    (omnicap.folder / "in" / "list.csv").write_text(f"image\n0000.png\n{omnicap.folder}/in/0001.png\n")
    assert omnicap.run(f"{base}/list.csv", "-o", "list.jsonl").returncode == 0
    assert outcome(omnicap, "list.jsonl") == {f"{base}/0000.png": "ok", f"{omnicap.folder}/in/0001.png": "ok"}


def test_a_manifest_from_elsewhere_names_no_file_of_this_machine(omnicap, make_pictures):
    make_pictures(2)
    secret = omnicap.folder / "in" / "0000.png"
    with serving() as server:
        server.serve("/up/0001.png", Answer(body=picture()))
        server.serve("/root.png", Answer(body=picture()))
        rows = [str(secret), secret.as_uri(), "zip://x::" + secret.as_uri(), "0001.png", "/root.png"]
        server.serve("/up/m.csv", Answer(body="\n".join(["image", *rows]).encode()))
        manifest = server.url("/up/m.csv")
        assert omnicap.run(manifest, "-o", "out.jsonl").returncode == 3
        found = outcome(omnicap)
        assert found.pop(server.url("/up/0001.png")) == found.pop(server.url("/root.png")) == "ok"
        # a path counts from the server's root, where there is nothing of that name
        assert found.pop(server.url(str(secret))) == "NotFoundError"
        assert found == {f"{manifest}#row={number}": "ManifestError" for number in (2, 3)}


def test_a_slow_server_is_given_up(omnicap):
    with serving() as server:
        server.serve("/a.png", Answer(body=picture() + bytes(100), declared=100_000, stall_after=90))
        run = omnicap.run(server.url("/a.png"), "-o", "out.jsonl", "--timeout", "0.5", "--retries", "0")
        assert run.returncode == 3
        assert omnicap.records()[0]["error"]["kind"] == "DownloadError"


def test_a_protocol_without_its_package_says_what_to_install(omnicap):
    run = omnicap.run("s3://bucket/a.png", "-o", "out.jsonl")
    assert run.returncode == 1
    assert "pip install s3fs" in run.stderr


# --- what is planned


def test_a_dry_run_counts_every_form(omnicap, make_pictures):
    make_pictures(3)
    write_tar(omnicap.folder / "x.tar", 4)
    write_tar(omnicap.folder / "y.tar.gz", 5, "w:gz")
    (omnicap.folder / "m.csv").write_text("image,id\nin/0000.png,x\n")
    run = omnicap.run("in", "x.tar", "y.tar.gz", "m.csv", "--dry-run")
    plan = json.loads(run.stdout)
    assert (plan["items"], plan["to_do"], plan["unreadable"]) == (13, 13, 0)
    assert plan["megapixels"] == pytest.approx(13 * 2 / 1e6, abs=0.01)
    assert not [name for name in os.listdir(omnicap.folder) if "jsonl" in name]


@pytest.mark.parametrize("known", [False, True])
def test_a_dry_run_counts_rows_without_the_column_of_the_prompt(omnicap, make_pictures, known):
    make_pictures(3)
    rows = ['{"image": "in/0000.png", "title": "cats"}', '{"image": "in/0001.png"}', '{"image": "gone.png"}']
    (omnicap.folder / "m.jsonl").write_text("\n".join(rows))
    words = ("m.jsonl", "--prompt", "What of {title}?", *(("-o", "out.jsonl") if known else ()))
    if known:
        assert omnicap.run(*words, "--limit", "1").returncode == 0
    plan = json.loads(omnicap.run(*words, "--dry-run").stdout)
    assert (plan["items"], plan["unreadable"], plan["requests"], plan["done"]) == (3, 2, 3, int(known))
