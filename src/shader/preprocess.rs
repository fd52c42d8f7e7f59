//! From a shader file and its defines to WGSL.

use super::Variant;
use crate::{Error, Result};

/// Where the parameters of a call live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamsIn {
    /// Set in the command stream (`var<immediate>`).
    Immediates,
    /// A slot of a uniform buffer at group 1, binding 0.
    Uniform,
}

/// Pieces that shaders import.
const SHARED: &[(&str, &str)] = &[
    ("activation", include_str!("../../shaders/shared/activation.wgsl")),
    ("epilogue", include_str!("../../shaders/shared/epilogue.wgsl")),
    ("dropout", include_str!("../../shaders/shared/dropout.wgsl")),
    ("attention", include_str!("../../shaders/shared/attention.wgsl")),
    ("aosm", include_str!("../../shaders/shared/aosm.wgsl")),
    ("entry", include_str!("../../shaders/shared/entry.wgsl")),
    ("gates", include_str!("../../shaders/shared/gates.wgsl")),
    ("gathered", include_str!("../../shaders/shared/gathered.wgsl")),
    ("grid", include_str!("../../shaders/shared/grid.wgsl")),
    ("halves", include_str!("../../shaders/shared/halves.wgsl")),
    ("lanes", include_str!("../../shaders/shared/lanes.wgsl")),
    ("max_similarity", include_str!("../../shaders/shared/max_similarity.wgsl")),
    ("ordered", include_str!("../../shaders/shared/ordered.wgsl")),
    ("philox", include_str!("../../shaders/shared/philox.wgsl")),
    ("row", include_str!("../../shaders/shared/row.wgsl")),
    ("select", include_str!("../../shaders/shared/select.wgsl")),
    ("soft_similarity", include_str!("../../shaders/shared/soft_similarity.wgsl")),
];

/// The WGSL text of `variant`.
///
/// # Errors
/// [`Error::ShaderRejected`] with the line, for an unknown directive, import or define, or an unclosed block.
pub fn preprocess(variant: &Variant, params: ParamsIn) -> Result<String> {
    let mut out = String::with_capacity(variant.source.len() + 256);
    for (name, value) in &variant.defines {
        out.push_str(&format!("const {name}: u32 = {value}u;\n"));
    }
    let lines: Vec<(usize, &str)> = variant.source.lines().enumerate().collect();
    expand(variant, params, &lines, &[], &mut out)?;
    Ok(out)
}

/// Appends `lines` to `out`; `vars` are the loop variables in force.
fn expand(
    variant: &Variant,
    params: ParamsIn,
    lines: &[(usize, &str)],
    vars: &[(&str, u32)],
    out: &mut String,
) -> Result<()> {
    let reject = |line: usize, message: String| Error::ShaderRejected {
        kernel: variant.label(),
        message: format!("line {}: {message}", line + 1),
    };
    // Whether each open #ifdef keeps its lines.
    let mut keep: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = lines[at];
        at += 1;
        let Some(directive) = line.trim_start().strip_prefix('#') else {
            if keep.iter().all(|&k| k) {
                push_line(line, vars, out);
            }
            continue;
        };
        let words: Vec<&str> = directive.split_whitespace().collect();
        match words.as_slice() {
            ["ifdef", name] => keep.push(variant.define(name).is_some()),
            ["ifndef", name] => keep.push(variant.define(name).is_none()),
            ["else"] => {
                let last = keep.last_mut().ok_or_else(|| reject(number, "#else without #ifdef".into()))?;
                *last = !*last;
            }
            ["endif"] => {
                keep.pop().ok_or_else(|| reject(number, "#endif without #ifdef".into()))?;
            }
            ["for", name, "in", range] => {
                let body_start = at;
                let body_end =
                    end_of_for(lines, body_start).ok_or_else(|| reject(number, "#for is never closed".into()))?;
                at = body_end + 1;
                if !keep.iter().all(|&k| k) {
                    continue;
                }
                let (from, to) = range
                    .split_once("..")
                    .and_then(|(a, b)| Some((value(variant, a)?, value(variant, b)?)))
                    .ok_or_else(|| reject(number, format!("bad range {range}")))?;
                for i in from..to {
                    let mut inner = vars.to_vec();
                    inner.push((name, i));
                    expand(variant, params, &lines[body_start..body_end], &inner, out)?;
                }
            }
            _ if !keep.iter().all(|&k| k) => {}
            ["import", name] => {
                let text = SHARED
                    .iter()
                    .find(|(n, _)| n == name)
                    .ok_or_else(|| reject(number, format!("nothing to import as {name}")))?
                    .1;
                let shared: Vec<(usize, &str)> = text.lines().enumerate().collect();
                expand(variant, params, &shared, vars, out)?;
            }
            ["params", ty, name] => out.push_str(&match params {
                ParamsIn::Immediates => format!("var<immediate> {name}: {ty};\n"),
                ParamsIn::Uniform => format!("@group(1) @binding(0) var<uniform> {name}: {ty};\n"),
            }),
            _ => return Err(reject(number, format!("unknown directive {}", line.trim()))),
        }
    }
    if keep.is_empty() { Ok(()) } else { Err(reject(lines.len(), "#ifdef is never closed".into())) }
}

/// The index of the `#endfor` that closes a `#for` whose body starts at `start`.
fn end_of_for(lines: &[(usize, &str)], start: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, (_, line)) in lines.iter().enumerate().skip(start) {
        let line = line.trim_start();
        if line.starts_with("#for ") {
            depth += 1;
        } else if line.starts_with("#endfor") {
            if depth == 0 {
                return Some(i);
            }
            depth -= 1;
        }
    }
    None
}

fn value(variant: &Variant, word: &str) -> Option<u32> {
    word.parse().ok().or_else(|| variant.define(word))
}

fn push_line(line: &str, vars: &[(&str, u32)], out: &mut String) {
    if vars.is_empty() || !line.contains('{') {
        out.push_str(line);
    } else {
        let mut text = line.to_string();
        for (name, value) in vars {
            text = text.replace(&format!("{{{name}}}"), &value.to_string());
        }
        out.push_str(&text);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &'static str, defines: Vec<(&'static str, u32)>) -> Result<String> {
        preprocess(&Variant::user("test", source, defines), ParamsIn::Immediates)
    }

    #[test]
    fn conditionals_and_loops_nest() {
        let source = "#ifdef A\n#for i in 0..N\nlet x{i} = {i}u;\n#for j in 0..2\n a{i}{j}\n#endfor\n#endfor\n#else\nno\n#endif\n";
        let out = text(source, vec![("A", 1), ("N", 2)]).unwrap();
        assert_eq!(out, "const A: u32 = 1u;\nconst N: u32 = 2u;\nlet x0 = 0u;\n a00\n a01\nlet x1 = 1u;\n a10\n a11\n");
        assert_eq!(text(source, vec![]).unwrap(), "no\n");
    }

    #[test]
    fn a_loop_in_a_dropped_block_is_dropped() {
        assert_eq!(text("#ifdef A\n#for i in 0..N\nx\n#endfor\n#endif\ny\n", vec![]).unwrap(), "y\n");
    }

    #[test]
    fn mistakes_name_the_line() {
        for source in [
            "#ifdef A\n",
            "#endif\n",
            "#else\n",
            "#for i in 0..3\n",
            "#nonsense\n",
            "#import nothing\n",
            "#for i in 0..M\n#endfor\n",
        ] {
            let error = text(source, vec![]).unwrap_err();
            assert!(error.to_string().contains("line"), "{source}: {error}");
        }
    }
}
