//! What is said in videos, and how queries ask.

use crate::data::moments::QueryKind;
use crate::data::synthetic::captions::phrase;
use crate::data::synthetic::events::Event;
use crate::random::Random;

use super::timeline::Stretch;

const SUBJECTS: [&str; 6] = ["the train", "my sister", "our boss", "the doctor", "your brother", "the band"];
const VERBS: [&str; 5] = ["leaves", "calls", "arrives", "waits", "comes back"];
const TIMES: [&str; 5] = ["at nine", "tomorrow", "after lunch", "on monday", "before dark"];

/// The 150 lines that people say: "the train leaves at nine".
pub fn lines() -> Vec<String> {
    let lines = SUBJECTS.iter().flat_map(|subject| VERBS.iter().map(move |verb| (subject, verb)));
    lines.flat_map(|(subject, verb)| TIMES.iter().map(move |time| format!("{subject} {verb} {time}"))).collect()
}

/// The words of queries that neither describe an event nor are said.
pub const CONNECTIVES: &str = "then while someone says";

/// A query before it has a number.
#[derive(Debug)]
pub struct Question {
    pub text: String,
    pub stretch: Stretch,
    pub kind: QueryKind,
    /// Whether it asks for two events in order.
    pub order: bool,
}

impl Question {
    /// Asks for two neighbouring events in order; there are at least two.
    pub fn order(events: &[(Event, Stretch)], random: &mut Random) -> Self {
        let first = random.below(events.len() - 1);
        let [a, b] = [events[first], events[first + 1]];
        let [first, second] = [a, b].map(|(event, _)| phrase(event, random.below(2) == 1));
        let stretch = Stretch { from: a.1.from, to: b.1.to };
        Self { text: format!("{first}, then {second}"), stretch, kind: QueryKind::Video, order: true }
    }

    /// Asks for anything, with the kinds in TVR's proportions.
    pub fn any(events: &[(Event, Stretch)], lines: &[(String, Stretch)], random: &mut Random) -> Self {
        let percent = random.below(100);
        let asked = match percent {
            0..74 => None,
            74..83 => Self::said(lines, random),
            _ => Self::seen_and_said(events, lines, random),
        };
        match asked {
            Some(question) => question,
            None if random.below(4) == 0 => Self::order(events, random),
            None => Self::seen(events, random),
        }
    }

    fn seen(events: &[(Event, Stretch)], random: &mut Random) -> Self {
        let (event, stretch) = events[random.below(events.len())];
        Self { text: phrase(event, random.below(2) == 1), stretch, kind: QueryKind::Video, order: false }
    }

    /// Nothing if nobody speaks.
    fn said(lines: &[(String, Stretch)], random: &mut Random) -> Option<Self> {
        let (line, stretch) = lines.get(random.below(lines.len()))?;
        let text = format!("someone says {line}");
        Some(Self { text, stretch: *stretch, kind: QueryKind::Text, order: false })
    }

    /// Nothing if nobody speaks during an event.
    fn seen_and_said(events: &[(Event, Stretch)], lines: &[(String, Stretch)], random: &mut Random) -> Option<Self> {
        let both = |(event, seen): (Event, Stretch)| {
            lines.iter().filter_map(move |(line, said)| Some((event, line, seen.shared(*said)?)))
        };
        let both: Vec<_> = events.iter().copied().flat_map(both).collect();
        let &(event, line, stretch) = both.get(random.below(both.len()))?;
        let text = format!("{} while someone says {line}", phrase(event, random.below(2) == 1));
        Some(Self { text, stretch, kind: QueryKind::Both, order: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn stretch(from: u32, to: u32) -> Stretch {
        Stretch { from, to }
    }

    #[test]
    fn lines_differ() {
        let lines = lines();
        assert_eq!(lines.len(), 150);
        assert_eq!(lines.iter().collect::<HashSet<_>>().len(), 150);
        assert!(lines.contains(&"the train leaves at nine".to_owned()));
    }

    #[test]
    fn queries_ask_for_what_there_is() {
        let all: Vec<_> = Event::all().collect();
        let events = [(all[0], stretch(10, 580)), (all[7], stretch(760, 1480)), (all[20], stretch(1650, 2240))];
        let lines = [("the band waits tomorrow".to_owned(), stretch(910, 1330))];
        let mut random = Random::new(3, 0);
        let mut windows = HashSet::new();
        for _ in 0..500 {
            let question = Question::any(&events, &lines, &mut random);
            let window = (question.stretch.from, question.stretch.to);
            let expected: &[(u32, u32)] = match (question.kind, question.order) {
                (QueryKind::Video, false) => &[(10, 580), (760, 1480), (1650, 2240)],
                (QueryKind::Video, true) => &[(10, 1480), (760, 2240)],
                _ => &[(910, 1330)],
            };
            assert!(expected.contains(&window), "{question:?}");
            assert_eq!(question.text.contains(", then "), question.order);
            assert_eq!(question.text.contains("someone says"), question.kind != QueryKind::Video);
            assert_eq!(question.text.starts_with("a "), question.kind != QueryKind::Text);
            windows.insert((question.kind, window));
        }
        assert_eq!(windows.len(), 7);
        // Without a word said, all queries are about what is seen.
        assert!((0..50).all(|_| Question::any(&events, &[], &mut random).kind == QueryKind::Video));
    }
}
