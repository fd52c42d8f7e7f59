#!/bin/sh
# Prints the size of the code without its tests: lines, and the functions and files that are longest and deepest. Exits 1
# when a limit is broken.
#
#     sh scripts/figures.sh [FOLDER]
#
# Tests are files named tests.rs or *_tests.rs, files below a folder tests, and items under #[cfg(test)], modules in files of
# their own included. A function counts from its signature to its closing brace, and is as deep as its braces are nested,
# its own included.
set -eu
cd "${1:-"$(dirname "$0")/.."}"

find src examples -name '*.rs' | sort | awk '
BEGIN {
    MOST_LINES = 52000; FUNCTION_LINES = 60; DEPTH = 5; FILE_LINES = 500
}

function is_test_file(file) {
    return file ~ /(^|[\/_])tests\.rs$/ || file ~ /\/tests\// || file in only_tests
}

# The line without comments and without the content of strings and characters. `state` and `nest` go on to the next line.
function code_of(text,   out, c, two, at, close_at) {
    out = ""
    while (text != "") {
        if (state == "comment") {
            at = match(text, /\/\*|\*\//)
            if (!at) return out
            nest += substr(text, at, 2) == "/*" ? 1 : -1
            text = substr(text, at + 2)
            if (nest == 0) state = ""
        } else if (state == "string") {
            at = match(text, /\\|"/)
            if (!at) return out
            if (substr(text, at, 1) == "\\") { text = substr(text, at + 2); continue }
            state = ""; out = out "\""; text = substr(text, at + 1)
        } else if (state == "raw") {
            at = index(text, raw_end)
            if (!at) return out
            state = ""; out = out "\""; text = substr(text, at + length(raw_end))
        } else {
            at = match(text, /\/\/|\/\*|"|\047/)
            if (!at) return out text
            out = out substr(text, 1, at - 1)
            two = substr(text, at, 2); c = substr(two, 1, 1)
            text = substr(text, at + 1)
            if (two == "//") return out
            if (two == "/*") { state = "comment"; nest = 1; text = substr(text, 2) }
            else if (c == "\"") {
                state = "string"
                if (match(out, /(^|[^A-Za-z0-9_])(br|cr|r)#*$/)) {
                    raw_end = substr(out, RSTART)
                    gsub(/[^#]/, "", raw_end)
                    raw_end = "\"" raw_end
                    state = "raw"
                }
                out = out "\""
            } else if (match(text, /^\\([^u]|u\{[0-9a-fA-F_]*\}|x..)\047/)) {
                text = substr(text, RLENGTH + 1); out = out "\"\""
            } else if (match(text, /^[^\\\047\200-\377]\047/)) {
                text = substr(text, 3); out = out "\"\""
            } else if (match(text, /^[\300-\377][\200-\277]*\047/)) {
                text = substr(text, RLENGTH + 1); out = out "\"\""
            } else out = out "\047"
        }
    }
    return out
}

function end_file() {
    if (file == "") return
    if (kept > FILE_LINES) long_files = long_files sprintf("  %5d  %s\n", kept, file)
    total += kept
    if (depth != 0) { printf "%s: braces do not match\n", file; failed = 1 }
}

function report(start, name, lines, deep) {
    functions++
    if (lines > longest) { longest = lines; longest_at = file ":" start " " name }
    if (deep > deepest) { deepest = deep; deepest_at = file ":" start " " name }
    if (lines > FUNCTION_LINES) long_functions = long_functions sprintf("  %5d  %s:%d %s\n", lines, file, start, name)
    if (deep > DEPTH) deep_functions = deep_functions sprintf("  %5d  %s:%d %s\n", deep, file, start, name)
}

# Modules that are declared under #[cfg(test)].
function find_test_modules(file,   line, test, folder, path) {
    folder = file
    if (!sub(/\/(mod|lib|main)\.rs$/, "", folder)) sub(/\.rs$/, "", folder)
    test = path = 0
    while ((getline line < file) > 0) {
        if (line ~ /^ *#\[cfg\((all\()?test/) test = 1
        else if (line ~ /^ *#\[path/) path = 1
        else if (line ~ /^ *(pub(\([a-z]+\))? )?mod [a-z0-9_]+;/ && test && !path) {
            sub(/^.*mod /, "", line); sub(/;.*$/, "", line)
            only_tests[folder "/" line ".rs"]; only_tests[folder "/" line "/mod.rs"]
            test = 0
        } else if (line !~ /^ *#\[/) test = path = 0
    }
    close(file)
}

function read_file(   line, text, i, c, n) {
    state = ""; depth = parens = kept = row = calls = 0; pending = skip = ""
    while ((getline line < file) > 0) {
        row++
        text = code_of(line)
        if (skip == "" && text ~ /^ *#\[cfg\((all\()?test/) { skip = "item"; skip_depth = depth }
        if (skip == "") kept++
        n = length(text)
        for (i = 1; i <= n; i++) {
            c = substr(text, i, 1)
            if (c == "f" && substr(text, i) ~ /^fn +[A-Za-z_]/ && substr(" " text, i, 1) !~ /[A-Za-z0-9_]/) {
                pending = substr(text, i + 3); sub(/^ +/, "", pending); sub(/[^A-Za-z0-9_].*$/, "", pending)
                pending_row = row; pending_parens = parens
            }
            if (c == "(" || c == "[") { parens++ }
            else if (c == ")" || c == "]") { parens-- }
            else if (c == ";") {
                if (pending != "" && parens == pending_parens) pending = ""
                if (skip == "item" && depth == skip_depth && parens == 0) skip = "end"
            } else if (c == "{") {
                depth++
                if (pending != "" && parens == pending_parens) {
                    calls++
                    name[calls] = pending; start[calls] = pending_row; base[calls] = depth; deep[calls] = 1
                    pending = ""
                } else if (calls > 0 && depth - base[calls] >= deep[calls]) deep[calls]++
            } else if (c == "}") {
                if (calls > 0 && base[calls] == depth) {
                    if (skip == "") report(start[calls], name[calls], row - start[calls] + 1, deep[calls])
                    calls--
                }
                depth--
                if (skip == "item" && depth == skip_depth && parens == 0) skip = "end"
            }
        }
        if (skip == "end") skip = ""
    }
    close(file)
}

{ files[++count] = $0 }

END {
    for (i = 1; i <= count; i++) find_test_modules(files[i])
    for (k = 1; k <= count; k++) {
        file = files[k]
        if (is_test_file(file)) continue
        read_file()
        end_file()
    }
    printf "%d lines, at most %d\n", total, MOST_LINES
    printf "%d functions; the longest has %d lines, at most %d: %s\n", functions, longest, FUNCTION_LINES, longest_at
    printf "the deepest has %d braces, at most %d: %s\n", deepest, DEPTH, deepest_at
    if (long_functions != "") printf "functions over %d lines:\n%s", FUNCTION_LINES, long_functions
    if (deep_functions != "") printf "functions deeper than %d braces:\n%s", DEPTH, deep_functions
    if (long_files != "") printf "files over %d lines without their tests:\n%s", FILE_LINES, long_files
    exit failed || total > MOST_LINES || long_functions != "" || deep_functions != "" || long_files != ""
}'
