//! From a shader file and its defines to WGSL.

use std::fmt::Display;
use std::iter::successors;

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

/// The pieces that shaders import: path and text of every file in `shaders/shared`.
const PIECES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pieces.rs"));

/// The WGSL text of `variant`.
///
/// # Errors
/// [`Error::ShaderRejected`] with file and line, for an unknown directive, import or define, an unclosed block, a second
/// `#else`, or a piece that imports itself.
pub fn preprocess(variant: &Variant, params: ParamsIn) -> Result<String> {
    let mut out = String::with_capacity(variant.source.len() + 256);
    for (name, value) in &variant.defines {
        out.push_str(&format!("const {name}: u32 = {value}u;\n"));
    }
    let mut expander = Expander { variant, params, imported: Vec::new(), out };
    expander.expand(&lines(&format!("{}.wgsl", variant.name), &variant.source, None), &[])?;
    Ok(expander.out)
}

/// A line of a file, and the line that imported the file.
#[derive(Clone, Copy)]
struct Line<'a> {
    file: &'a str,
    number: usize,
    text: &'a str,
    importer: Option<&'a Line<'a>>,
}

fn lines<'a>(file: &'a str, text: &'a str, importer: Option<&'a Line<'a>>) -> Vec<Line<'a>> {
    text.lines().enumerate().map(|(i, text)| Line { file, number: i + 1, text, importer }).collect()
}

/// An open `#ifdef` or `#ifndef`.
struct Condition<'a> {
    opened: Line<'a>,
    keeps: bool,
    has_else: bool,
}

struct Expander<'a> {
    variant: &'a Variant,
    params: ParamsIn,
    /// What is in `out` already: a piece is imported once.
    imported: Vec<&'static str>,
    out: String,
}

impl Expander<'_> {
    /// Appends `lines`; `vars` are the loop variables in force, with their values.
    fn expand(&mut self, lines: &[Line<'_>], vars: &[(&str, &str)]) -> Result<()> {
        let mut open: Vec<Condition<'_>> = Vec::new();
        let mut rest = lines;
        while let [line, tail @ ..] = rest {
            rest = tail;
            let kept = open.iter().all(|c| c.keeps);
            let Some(directive) = line.text.trim_start().strip_prefix('#') else {
                if kept {
                    self.push(line.text, vars);
                }
                continue;
            };
            let words: Vec<&str> = directive.split_whitespace().collect();
            match words.as_slice() {
                ["ifdef" | "ifndef" | "else" | "endif", ..] => self.condition(&mut open, line, &words)?,
                ["for", name, "in", values @ ..] => {
                    let end = end_of_for(tail).ok_or_else(|| self.reject(line, "#for is never closed"))?;
                    rest = &tail[end + 1..];
                    if kept {
                        self.repeat(&tail[..end], (line, name, values), vars)?;
                    }
                }
                _ if !kept => {}
                ["import", name] if vars.is_empty() => self.import(line, name)?,
                ["import", _] => return Err(self.reject(line, "#import within #for")),
                ["params", ty, name] => self.params(ty, name),
                ["entry", "subgroup", size @ .., "{"] => self.entry(size, "subgroup_invocation_id", "lane"),
                ["entry", size @ .., "{"] => self.entry(size, "local_invocation_index", "local"),
                _ => return Err(self.reject(line, format!("unknown directive {}", line.text.trim()))),
            }
        }
        match open.last() {
            None => Ok(()),
            Some(condition) => Err(self.reject(&condition.opened, "#ifdef is never closed")),
        }
    }

    fn condition<'a>(&self, open: &mut Vec<Condition<'a>>, line: &Line<'a>, words: &[&str]) -> Result<()> {
        match *words {
            [word @ ("ifdef" | "ifndef"), name] => {
                let keeps = self.variant.define(name).is_some() == (word == "ifdef");
                open.push(Condition { opened: *line, keeps, has_else: false });
            }
            ["else"] => {
                let last = open.last_mut().ok_or_else(|| self.reject(line, "#else without #ifdef"))?;
                if last.has_else {
                    return Err(self.reject(line, format!("a second #else for line {}", last.opened.number)));
                }
                last.keeps = !last.keeps;
                last.has_else = true;
            }
            ["endif"] => {
                open.pop().ok_or_else(|| self.reject(line, "#endif without #ifdef"))?;
            }
            _ => return Err(self.reject(line, format!("unknown directive {}", line.text.trim()))),
        }
        Ok(())
    }

    /// Appends the body of a loop once for each value: the words as they are, or the numbers of a range.
    fn repeat(
        &mut self,
        body: &[Line<'_>],
        (line, name, words): (&Line<'_>, &str, &[&str]),
        vars: &[(&str, &str)],
    ) -> Result<()> {
        let mut values: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        if let &[range] = words
            && let Some((from, to)) = range.split_once("..")
        {
            values = (self.number(line, from)?..self.number(line, to)?).map(|i| i.to_string()).collect();
        }
        for value in &values {
            self.expand(body, &[vars, &[(name, value)]].concat())?;
        }
        Ok(())
    }

    fn number(&self, line: &Line<'_>, word: &str) -> Result<u32> {
        let number = word.parse().ok().or_else(|| self.variant.define(word));
        number.ok_or_else(|| self.reject(line, format!("{word} is neither a number nor a define")))
    }

    fn import(&mut self, line: &Line<'_>, name: &str) -> Result<()> {
        let wanted = format!("shared/{name}.wgsl");
        let &(file, text) = PIECES
            .iter()
            .find(|(file, _)| *file == wanted)
            .ok_or_else(|| self.reject(line, format!("there is no shaders/{wanted} to import")))?;
        if successors(Some(line), |l| l.importer).any(|l| l.file == file) {
            return Err(self.reject(line, format!("{file} imports itself")));
        }
        if self.imported.contains(&file) {
            return Ok(());
        }
        self.imported.push(file);
        self.expand(&lines(file, text, Some(line)), &[])
    }

    fn params(&mut self, ty: &str, name: &str) {
        self.out.push_str(&match self.params {
            ParamsIn::Immediates => format!("var<immediate> {name}: {ty};\n"),
            ParamsIn::Uniform => format!("@group(1) @binding(0) var<uniform> {name}: {ty};\n"),
        });
    }

    /// The head of `main`. Grids are folded to stay within the limit of groups a dimension.
    fn entry(&mut self, size: &[&str], builtin: &str, name: &str) {
        self.out.push_str(&format!(
            "@compute @workgroup_size({})\nfn main(\n    @builtin(workgroup_id) group: vec3<u32>,\n    \
             @builtin(num_workgroups) groups: vec3<u32>,\n    @builtin({builtin}) {name}: u32,\n) {{\n    \
             let flat = group.y * groups.x + group.x;\n",
            size.join(" ")
        ));
    }

    fn push(&mut self, line: &str, vars: &[(&str, &str)]) {
        if vars.is_empty() || !line.contains('{') {
            self.out.push_str(line);
        } else {
            let text =
                vars.iter().fold(line.to_string(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
            self.out.push_str(&text);
        }
        self.out.push('\n');
    }

    fn reject(&self, line: &Line<'_>, message: impl Display) -> Error {
        let mut place = format!("{}:{}", line.file, line.number);
        for importer in successors(line.importer, |l| l.importer) {
            place += &format!(", imported at {}:{}", importer.file, importer.number);
        }
        Error::ShaderRejected { kernel: self.variant.label(), message: format!("{place}: {message}") }
    }
}

/// The index of the `#endfor` that closes a `#for` whose body starts with `lines`.
fn end_of_for(lines: &[Line<'_>]) -> Option<usize> {
    let mut depth = 0;
    lines.iter().position(|line| {
        let text = line.text.trim_start();
        if text.starts_with("#for ") {
            depth += 1;
        } else if text.starts_with("#endfor") {
            depth -= 1;
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str, defines: Vec<(&'static str, u32)>) -> Result<String> {
        preprocess(&Variant::user("test", source.to_string(), defines), ParamsIn::Immediates)
    }

    #[track_caller]
    fn assert_refused(source: &str, message: &str) {
        let Err(Error::ShaderRejected { message: found, .. }) = text(source, vec![]) else { panic!("{source} passes") };
        assert_eq!(found, message);
    }

    #[test]
    fn conditionals_and_loops_nest() {
        let source = "#ifdef A\n#for i in 0..N\nlet x{i} = {i}u;\n#for j in 0..2\n a{i}{j}\n#endfor\n#endfor\n#else\nno\n#endif\n";
        let out = text(source, vec![("A", 1), ("N", 2)]).unwrap();
        assert_eq!(out, "const A: u32 = 1u;\nconst N: u32 = 2u;\nlet x0 = 0u;\n a00\n a01\nlet x1 = 1u;\n a10\n a11\n");
        assert_eq!(text(source, vec![]).unwrap(), "no\n");
    }

    #[test]
    fn loops_go_over_words() {
        assert_eq!(text("#for x in q k\n{x}[{i}]\n#endfor\n", vec![]).unwrap(), "q[{i}]\nk[{i}]\n");
    }

    #[test]
    fn a_loop_in_a_dropped_block_is_dropped() {
        assert_eq!(text("#ifdef A\n#for i in 0..N\nx\n#endfor\n#endif\ny\n", vec![]).unwrap(), "y\n");
    }

    #[test]
    fn every_shared_piece_can_be_imported() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared");
        let there = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(PIECES.len(), there);
        for (path, content) in PIECES {
            let file = std::fs::read_to_string(format!("{folder}/../{path}")).unwrap();
            assert_eq!(&file, content, "{path}");
        }
    }

    #[test]
    fn a_piece_is_imported_once() {
        let out = text("#import philox\n#import philox\n", vec![]).unwrap();
        assert_eq!(out.matches("fn philox(").count(), 1);
    }

    #[test]
    fn the_entry_is_written_out() {
        let out = text("#entry 2 * LANES {\n}\n", vec![]).unwrap();
        assert!(out.starts_with("@compute @workgroup_size(2 * LANES)\nfn main(\n"), "{out}");
        assert!(out.contains("@builtin(local_invocation_index) local: u32,\n) {\n    let flat = "), "{out}");
        let out = text("#entry subgroup S {\n}\n", vec![]).unwrap();
        assert!(out.contains("@builtin(subgroup_invocation_id) lane: u32,\n"), "{out}");
    }

    #[test]
    fn mistakes_name_file_and_line() {
        assert_refused("\n#ifdef A\n", "test.wgsl:2: #ifdef is never closed");
        assert_refused("#endif\n", "test.wgsl:1: #endif without #ifdef");
        assert_refused("#else\n", "test.wgsl:1: #else without #ifdef");
        assert_refused("#for i in 0..3\n", "test.wgsl:1: #for is never closed");
        assert_refused("x\n#nonsense\n", "test.wgsl:2: unknown directive #nonsense");
        assert_refused("#ifdef A B\n#endif\n", "test.wgsl:1: unknown directive #ifdef A B");
        assert_refused("#import nothing\n", "test.wgsl:1: there is no shaders/shared/nothing.wgsl to import");
        assert_refused("#for i in 0..M\n#endfor\n", "test.wgsl:1: M is neither a number nor a define");
        assert_refused("#for i in 0..3\n\n#import philox\n#endfor\n", "test.wgsl:3: #import within #for");
    }

    #[test]
    fn a_second_else_is_refused() {
        assert_refused("\n#ifdef A\n#else\n#else\n#endif\n", "test.wgsl:4: a second #else for line 2");
    }

    /// What the files themselves do not hold: mistakes within a piece.
    #[test]
    fn mistakes_within_a_piece_name_it_and_its_importer() {
        let variant = Variant::user("test", "", vec![]);
        let expander =
            || Expander { variant: &variant, params: ParamsIn::Immediates, imported: vec![], out: String::new() };
        let outer = Line { file: "test.wgsl", number: 7, text: "#import philox", importer: None };
        let refused = |text: &str| match expander().expand(&lines("shared/philox.wgsl", text, Some(&outer)), &[]) {
            Err(Error::ShaderRejected { message, .. }) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused("\n#endif"), "shared/philox.wgsl:2, imported at test.wgsl:7: #endif without #ifdef");
        assert_eq!(
            refused("#import philox"),
            "shared/philox.wgsl:1, imported at test.wgsl:7: shared/philox.wgsl imports itself"
        );
    }
}
