"""Writes the binary files of this folder; see README.md. Needs NumPy and h5py."""

import json
import os

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def at(*names):
    path = os.path.join(HERE, *names)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def ramp(*shape):
    """0, 0.5, 1, 1.5, ... : exact in every float type."""
    return (np.arange(np.prod(shape)) * 0.5).reshape(shape)


def features(path, libver):
    with h5py.File(path, "w", libver=libver, track_order=False) as f:
        for name in ["f2", "f4", "f8"]:
            f[name] = ramp(4, 3).astype("<" + name)
        f["f4_big_endian"] = ramp(4, 3).astype(">f4")
        f["i4"] = np.arange(-3, 9, dtype="i4").reshape(4, 3)
        f.create_dataset("gzip", data=ramp(6, 2, 3).astype("f4"), chunks=(2, 2, 3), compression="gzip", shuffle=True)
        f["sub/inner"] = ramp(2).astype("f4")
        f["scalar"] = np.float32(2.5)
        f["none"] = np.zeros((0, 3), "f4")
        f["text"] = "no numbers"
        bad = ramp(4, 3).astype("f4")
        bad[2, 1], bad[3, 0] = np.nan, np.inf
        f["nan"] = bad
        # Declared, never written: 4 TB of fill values.
        f.create_dataset("huge", shape=(1 << 30, 1024), dtype="f4", chunks=(1, 1024))


def foreign(path):
    """What this crate reads beside plain numbers, or refuses by name."""
    with h5py.File(path, "w") as f:
        f["good"] = ramp(4, 3).astype("f4")
        f.create_dataset("lzf", data=ramp(4, 3).astype("f4"), chunks=(2, 3), compression="lzf")
        f["flags"] = np.array([[True, False, True], [False, False, True]])
        brain = h5py.h5t.IEEE_F16LE.copy()
        brain.set_fields(15, 7, 8, 0, 7)
        brain.set_ebias(127)
        halves = (ramp(4, 3).astype("f4").view("u4") >> 16).astype("u2")
        shape = h5py.h5s.create_simple((4, 3))
        h5py.h5d.create(f.id, b"brain", brain, shape).write(h5py.h5s.ALL, h5py.h5s.ALL, halves, mtype=brain)
        eight = h5py.h5t.IEEE_F16LE.copy()
        eight.set_fields(7, 3, 4, 0, 3)
        eight.set_ebias(7)
        eight.set_precision(8)
        eight.set_size(1)
        h5py.h5d.create(f.id, b"eight", eight, shape)
        layout = h5py.VirtualLayout(shape=(4, 3), dtype="f4")
        layout[:] = h5py.VirtualSource(".", "good", shape=(4, 3))
        f.create_virtual_dataset("virtual", layout)


def bicnet(folder, region, frames, libver="earliest"):
    """Five videos, T = 3, R = 2; widths: text 6, region 4, global 5."""
    captions = [[2, 3], [1], [4, 1, 2], [2, 2], [3]]
    with h5py.File(at(folder, "text_default.h5"), "w", libver=libver) as f:
        for i, lens in enumerate(captions):
            f[f"video{i}"] = (100 * i + ramp(sum(lens), 6)).astype("f4")
    with open(at(folder, "text_lens_default.json"), "w") as f:
        json.dump({f"video{i}": lens for i, lens in enumerate(captions)}, f)
    with open(at(folder, "datainfo.json"), "w") as f:
        rows = [{"sen_id": 0, "video_id": f"video{i}", "caption": f"caption {n} of {i}"} for i, lens in enumerate(captions) for n in range(len(lens))]
        json.dump({"info": {"version": "1"}, "videos": [], "sentences": rows}, f)
    with h5py.File(at(folder, region), "w") as f:
        f["vfeats"] = ramp(5, 3, 2, 4).astype("f4")
    with h5py.File(at(folder, frames), "w") as f:
        f.create_dataset("feats", data=ramp(5, 3, 5).astype("f2"), chunks=(1, 3, 5), compression="gzip")


def msvd(folder):
    """All 1,970 rows of width 1, texts of the 100 validation videos (one dataset under 100 names)."""
    with h5py.File(at(folder, "text_default.h5"), "w", libver="latest") as f:
        f["video1200"] = ramp(3, 2).astype("f4")
        for i in range(1201, 1300):
            f[f"video{i}"] = f["video1200"]
    with open(at(folder, "text_lens_default.json"), "w") as f:
        json.dump({f"video{i}": [2, 1] for i in range(1200, 1300)}, f)
    with h5py.File(at(folder, "msvd_region_feature.h5"), "w") as f:
        f.create_dataset("vfeats", data=np.ones((1970, 1, 1, 1), "f4"), compression="gzip")
    with h5py.File(at(folder, "msvd_features.h5"), "w") as f:
        f.create_dataset("feats", data=np.arange(1970, dtype="f4").reshape(1970, 1, 1), compression="gzip")


features(at("features.h5"), "earliest")
features(at("features_latest.h5"), "latest")
foreign(at("features_foreign.h5"))
bicnet("bicnet", "msrvtt_region_feature.h5", "msr-vtt_features.h5")
for name, videos in [("train", ["video0", "video2", "video3"]), ("test", ["video4", "video1"])]:
    with open(at("bicnet", f"MSRVTT_9000_{name}.csv"), "w") as f:
        f.write("video_id\n" + "".join(v + "\n" for v in videos))
msvd("bicnet_msvd")
with h5py.File(at("wrong.h5"), "w") as f:
    f["vfeats"] = ramp(5, 6, 4).astype("f4")
    f["feats"] = np.full((5, 3, 5), np.nan, "f4")
with h5py.File(at("frames4.h5"), "w") as f:
    f["feats"] = ramp(5, 4, 5).astype("f4")
np.savez_compressed(
    at("arrays.npz"),
    f2=ramp(2, 3).astype("f2"), f4=ramp(2, 3).astype("f4"), f8=ramp(2, 3), f4_big_endian=ramp(2, 3).astype(">f4"),
    fortran=np.asfortranarray(ramp(2, 3, 4).astype("f4")), i8=np.arange(-2, 4).reshape(2, 3), u1=np.arange(6, dtype="u1").reshape(2, 3),
    scalar=np.float32(2.5), none=np.zeros((0, 3), "f4"), flags=np.array([True, False]), text=np.array(["a"]), complex=np.ones(2, "c8"),
)
np.save(at("objects.npy"), np.array([{}, None], object), allow_pickle=True)
