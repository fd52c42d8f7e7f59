//! Words of free text.

/// The words of `text` in lower case: runs of letters, digits and inner apostrophes.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .map(|word| word.trim_matches('\'').to_lowercase())
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_and_case_do_not_matter() {
        let found: Vec<_> = words("  'A man' doesn't\tSTOP, then—at 9:30 -- Élan. '' ").collect();
        assert_eq!(found, ["a", "man", "doesn't", "stop", "then", "at", "9", "30", "élan"]);
        assert_eq!(words(" .. ,").count(), 0);
    }
}
