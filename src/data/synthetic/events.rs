//! What can happen: a coloured shape does something.

use serde::{Deserialize, Serialize};

/// An enum with the list of its values and the word for each.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $(#[doc = concat!("\"", $word, "\".")] $value,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &[$name] = &[$($name::$value,)*];

            /// How captions say it.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$value => $word,)*
                }
            }
        }
    };
}

words! {
    /// The colour of an actor.
    Colour { Red = "red", Green = "green", Blue = "blue", Yellow = "yellow", Purple = "purple", White = "white", }
}

words! {
    /// The shape of an actor.
    Shape { Square = "square", Circle = "circle", Triangle = "triangle", Cross = "cross", }
}

words! {
    /// What an actor does.
    Action {
        Left = "moves left",
        Right = "moves right",
        Rise = "rises",
        Fall = "falls",
        Grow = "grows",
        Shrink = "shrinks",
    }
}

impl Action {
    /// Another way to say it.
    pub fn other_words(self) -> &'static str {
        match self {
            Action::Left => "goes left",
            Action::Right => "goes right",
            Action::Rise => "goes up",
            Action::Fall => "goes down",
            Action::Grow => "gets bigger",
            Action::Shrink => "gets smaller",
        }
    }
}

/// One actor and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Event {
    /// The actor's colour.
    pub colour: Colour,
    /// The actor's shape.
    pub shape: Shape,
    /// What it does.
    pub action: Action,
}

impl Event {
    /// All 144 events.
    pub fn all() -> impl Iterator<Item = Event> {
        Colour::ALL.iter().flat_map(|&colour| {
            Shape::ALL
                .iter()
                .flat_map(move |&shape| Action::ALL.iter().map(move |&action| Event { colour, shape, action }))
        })
    }
}
