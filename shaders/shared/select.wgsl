// The best of many entries, exactly, by one workgroup of LANES invocations: a radix select finds a bound that few
// enough entries reach, those are gathered, and sorted. Indices decide between equal keys, so that the order of the atomics
// does not show. With SUBGROUP the workgroup is one subgroup.
//
// The importer declares `fn scan(lane: u32)`, which calls offer(key, index) for the lane's share of the entries: each
// entry once, and the same ones whenever it is called. After select_best, `entries` holds the best, in order.

#import ranked

// The most entries that can be sorted; importers may define fewer.
#ifndef ROOM
const ROOM: u32 = 1024u;
#endif

var<workgroup> entries: array<vec2<u32>, ROOM>;
var<workgroup> gathered: atomic<u32>;
var<workgroup> found: vec3<u32>;
// How many entries have each digit. On software adapters an atomic costs more than 16 comparisons.
#ifdef SUBGROUP
const DIGIT_BITS: u32 = 4u;
#for d in 0..16
var<private> tally{d}: u32;
#endfor
#else
const DIGIT_BITS: u32 = 8u;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> histogram_parts: array<u32, 16>;
#endif
const DIGIT: u32 = (1u << DIGIT_BITS) - 1u;

// An entry is a number of 64 bits: the key, then the index with its bits flipped. The leading digits of the bound;
// which bits those are; and the place of the digit that is counted.
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
    } else {
        let has_prefix = ((key ^ prefix.x) & known.x) == 0u && ((low ^ prefix.y) & known.y) == 0u;
        let digit = (select(low, key, shift >= 32u) >> (shift % 32u)) & DIGIT;
#ifdef SUBGROUP
        let one = select(0u, 1u, has_prefix);
#for d in 0..16
        tally{d} += select(0u, one, digit == {d}u);
#endfor
#else
        if (has_prefix) {
            atomicAdd(&histogram[digit], 1u);
        }
#endif
    }
}

// Of the entries with the prefix: the highest next digit such that at least `wanted` have it or a higher one, or 0 if
// there are not so many; how many have a higher one; and how many have it.
#ifdef SUBGROUP
fn next_digit(wanted: u32, lane: u32) -> vec3<u32> {
#for d in 0..16
    tally{d} = 0u;
#endfor
    scan(lane);
    var left = 0u;
#for d in 0..16
    let count{d} = subgroupAdd(tally{d});
    left += count{d};
#endfor
    var next = vec3<u32>(0u, left - count0, count0);
    left -= count0;
#for d in 1..16
    next = select(next, vec3<u32>({d}u, left - count{d}, count{d}), left >= wanted);
    left -= count{d};
#endfor
    return next;
}
#else
fn next_digit(wanted: u32, lane: u32) -> vec3<u32> {
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
        found = vec3<u32>(digit, above, atomicLoad(&histogram[digit]));
    }
    return workgroupUniformLoad(&found);
}
#endif

// Leaves the best `k` of `total` entries in entries[0] to entries[k - 1], and "none" behind the last where there are
// fewer; `total` may be too high. k is at most `room`, which is at most ROOM: gathering begins as soon as no more than
// `room` are left.
fn select_best(k: u32, total: u32, room: u32, lane: u32) {
    prefix = vec2<u32>(0u);
    known = vec2<u32>(0u);
    gathering = false;
    var above = 0u;
    var left = total;
    for (shift = 64u; shift > 0u && above + left > room;) {
        shift -= DIGIT_BITS;
        let next = next_digit(k - above, lane);
        above += next.y;
        left = next.z;
        let word = vec2<u32>(next.x, DIGIT) << vec2<u32>(shift % 32u);
        let in_key = shift >= 32u;
        prefix |= select(vec2<u32>(0u, word.x), vec2<u32>(word.x, 0u), in_key);
        known |= select(vec2<u32>(0u, word.y), vec2<u32>(word.y, 0u), in_key);
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
