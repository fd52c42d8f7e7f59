// What is ranked: a key and an index. "None" is (0, NONE), after every entry there is.

const NONE: u32 = 0xffffffffu;

// Whether entry a = (key, index) comes before b: the higher key, then the lower index.
fn better(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}
