// The number of a workgroup in a grid that was folded to stay within the limit of groups a dimension.
fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
