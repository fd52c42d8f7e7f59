// The best of many entries, exactly, by one workgroup of LANES invocations: a radix select finds an entry that few enough
// are as good as or better than, those are gathered, and sorted. Only indices decide between equal keys, so that the
// order of the atomics does not show.
//
// The importer declares `fn scan(lane: u32)`, which calls offer(key, index) for the lane's share of the entries: each
// entry once, and the same ones whenever it is called. After select_best, `entries` holds the best, in order.

#import entry

// The most entries that can be sorted.
const ROOM: u32 = 1024u;

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> histogram_parts: array<u32, 16>;
var<workgroup> entries: array<vec2<u32>, ROOM>;
var<workgroup> gathered: atomic<u32>;
// The digit, how many entries are above it, how many have it.
var<workgroup> found: vec3<u32>;

// An entry is a number of 64 bits: the key, then the index with its bits flipped. The leading digits that the entry
// looked for has; which bits those are; and the place of the digit that is counted.
var<private> prefix: vec2<u32>;
var<private> known: vec2<u32>;
var<private> shift: u32;
var<private> gathering: bool;

fn offer(key: u32, index: u32) {
    let low = ~index;
    if (gathering) {
        if (key > prefix.x || (key == prefix.x && low >= prefix.y)) {
            let at = atomicAdd(&gathered, 1u);
            if (at < ROOM) {
                entries[at] = vec2<u32>(key, index);
            }
        }
    } else if (((key ^ prefix.x) & known.x) == 0u && ((low ^ prefix.y) & known.y) == 0u) {
        let word = select(low, key, shift >= 32u);
        atomicAdd(&histogram[(word >> (shift % 32u)) & 255u], 1u);
    }
}

// The highest digit with at least `wanted` entries at it and above; 0 if there are not so many.
fn find_digit(wanted: u32) -> vec3<u32> {
    var above = 0u;
    var part = 15u;
    for (; part > 0u && above + histogram_parts[part] < wanted; part--) {
        above += histogram_parts[part];
    }
    var digit = 16u * part + 15u;
    for (; digit > 16u * part; digit--) {
        let count = atomicLoad(&histogram[digit]);
        if (above + count >= wanted) {
            break;
        }
        above += count;
    }
    return vec3<u32>(digit, above, atomicLoad(&histogram[digit]));
}

// Leaves the best `k` of `total` entries in entries[0] to entries[k - 1], and "none" behind the last where there are
// fewer. k is at most `room`, which is at most ROOM: gathering begins as soon as no more than `room` are left.
fn select_best(k: u32, total: u32, room: u32, lane: u32) {
    prefix = vec2<u32>(0u);
    known = vec2<u32>(0u);
    gathering = false;
    var above = 0u;
    var left = total;
    for (var digit = 0u; digit < 8u && above + left > room; digit++) {
        shift = 56u - 8u * digit;
        for (var i = lane; i < 256u; i += LANES) {
            atomicStore(&histogram[i], 0u);
        }
        workgroupBarrier();
        scan(lane);
        workgroupBarrier();
        for (var part = lane; part < 16u; part += LANES) {
            var sum = 0u;
            for (var i = 16u * part; i < 16u * part + 16u; i++) {
                sum += atomicLoad(&histogram[i]);
            }
            histogram_parts[part] = sum;
        }
        workgroupBarrier();
        if (lane == 0u) {
            found = find_digit(k - above);
        }
        let here = workgroupUniformLoad(&found);
        above += here.y;
        left = here.z;
        let word = here.x << (shift % 32u);
        let bits = 255u << (shift % 32u);
        prefix |= select(vec2<u32>(0u, word), vec2<u32>(word, 0u), shift >= 32u);
        known |= select(vec2<u32>(0u, bits), vec2<u32>(bits, 0u), shift >= 32u);
    }

    gathering = true;
    if (lane == 0u) {
        atomicStore(&gathered, 0u);
    }
    workgroupBarrier();
    scan(lane);
    workgroupBarrier();
    if (lane == 0u) {
        found = vec3<u32>(min(atomicLoad(&gathered), ROOM));
    }
    let count = workgroupUniformLoad(&found).x;
    // A bitonic network wants a power of two.
    var size = 1u;
    while (size < count) {
        size *= 2u;
    }
    for (var i = count + lane; i < max(size, k); i += LANES) {
        entries[i] = vec2<u32>(0u, NONE);
    }
    workgroupBarrier();
    for (var run = 2u; run <= size; run *= 2u) {
        for (var gap = run / 2u; gap > 0u; gap /= 2u) {
            for (var i = lane; i < size / 2u; i += LANES) {
                let first = 2u * i - i % gap;
                let a = entries[first];
                let b = entries[first + gap];
                if (better(b, a) == ((first & run) == 0u)) {
                    entries[first] = b;
                    entries[first + gap] = a;
                }
            }
            workgroupBarrier();
        }
    }
}

// Where part `number` begins and ends if a whole is cut into parts of `size`, the first `longer` of them one longer.
fn part_range(number: u32, size: u32, longer: u32) -> vec2<u32> {
    let start = number * size + min(number, longer);
    return vec2<u32>(start, start + size + select(0u, 1u, number < longer));
}
