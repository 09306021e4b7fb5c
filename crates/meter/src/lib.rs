//! Counters, histograms and what they mean.
//!
//! Handles are resolved at set-up; a step is one relaxed atomic addition, an observation two: never a lock, never an
//! allocation. What a number means is the doc comment at its declaration: it becomes the help text that operators read, so
//! that none can be without one.

mod count;
mod histogram;

pub use count::{Count, Held};
pub use histogram::{BUCKETS, Bytes, Histogram, Lives, Read, Times};

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

impl Kind {
    /// As OpenMetrics calls it.
    pub const fn text(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What a number means.
#[derive(Clone, Debug)]
pub struct Meaning {
    /// Its name, without `polder_` and `_total`.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// One sentence.
    pub help: String,
}

impl Meaning {
    /// What the plain number `name` means: names that end in `_open` or `_waiting` go up and down.
    pub fn of_count(name: &'static str, help: &[&str]) -> Self {
        let gauge = name.ends_with("_open") || name.ends_with("_waiting");
        Meaning { name, kind: if gauge { Kind::Gauge } else { Kind::Counter }, help: sentence(help) }
    }

    /// What the histogram `name` means.
    pub fn of_histogram(name: &'static str, help: &[&str]) -> Self {
        Meaning { name, kind: Kind::Histogram, help: sentence(help) }
    }
}

fn sentence(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Declares a struct of [`Count`]s. `prefix` goes before each name; names ending in `_open` or `_waiting` are gauges.
///
/// ```
/// polder_meter::counts! {
///     /// What a door has done.
///     pub struct Door, prefix "door_";
///     /// Guests let in.
///     guests,
///     /// Guests inside now.
///     guests_open,
/// }
/// let door = Door::default();
/// door.guests.up();
/// assert_eq!(door.read(), [("door_guests", 1), ("door_guests_open", 0)]);
/// assert_eq!(Door::meanings()[0].help, "Guests let in.");
/// ```
#[macro_export]
macro_rules! counts {
    ($(#[$about:meta])* $vis:vis struct $Name:ident, prefix $prefix:literal; $($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        $vis struct $Name { $($(#[doc = $doc])+ pub $name: $crate::Count,)+ }

        impl $Name {
            /// Names and values.
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((concat!($prefix, stringify!($name)), self.$name.get()),)+]
            }

            /// What each means.
            pub fn meanings() -> Vec<$crate::Meaning> {
                vec![$($crate::Meaning::of_count(concat!($prefix, stringify!($name)), &[$($doc),+]),)+]
            }
        }
    };
}

/// Declares a struct of [`Histogram`]s, each with its type; the names end with the unit.
#[macro_export]
macro_rules! histograms {
    ($(#[$about:meta])* $vis:vis struct $Name:ident; $($(#[doc = $doc:literal])+ $name:ident: $kind:ty),+ $(,)?) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        $vis struct $Name { $($(#[doc = $doc])+ pub $name: $kind,)+ }

        impl $Name {
            /// Names and contents.
            pub fn read(&self) -> Vec<(&'static str, $crate::Read)> {
                vec![$((stringify!($name), self.$name.read()),)+]
            }

            /// What each means.
            pub fn meanings() -> Vec<$crate::Meaning> {
                vec![$($crate::Meaning::of_histogram(stringify!($name), &[$($doc),+]),)+]
            }
        }
    };
}
