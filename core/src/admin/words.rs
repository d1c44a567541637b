//! The whitelist of four-letter words.
//!
//! Owns which words are answered; which four bytes are a word is the wire's. Never renders. It stays correct because a
//! word without an answer cannot be enabled, not even by `*`.

pub use paddock_transport::wire::FourLetterWord as Word;

/// The words that this server answers; a known other one gets the whitelist's refusal even under `*`.
const ANSWERED: [Word; 9] = [
    Word::Conf,
    Word::Cons,
    Word::Isro,
    Word::Lead,
    Word::Mntr,
    Word::Ruok,
    Word::Srvr,
    Word::Stat,
    Word::Wchs,
];

/// Words that change something: enabled by name only, never by `*`.
const ACTIVE: [Word; 1] = [Word::Lead];

const fn bit(word: Word) -> u32 {
    1 << word as u32
}

fn all(words: &[Word]) -> u32 {
    words.iter().fold(0, |bits, word| bits | bit(*word))
}

/// The enabled words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words(u32);

impl Default for Words {
    /// `srvr,ruok,mntr,stat,isro`: what health checks and exporters ask for, and nothing that lists znodes' watchers.
    fn default() -> Self {
        Words(all(&[Word::Srvr, Word::Ruok, Word::Mntr, Word::Stat, Word::Isro]))
    }
}

impl Words {
    /// Reads `4lw.commands.whitelist`: names separated by commas, or `*`. `srvr` is always enabled. Names that are no
    /// words are returned beside the result, for a warning.
    pub fn parse(list: &str) -> (Self, Vec<String>) {
        let mut bits = bit(Word::Srvr);
        let mut unknown = Vec::new();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if name == "*" {
                bits |= all(&ANSWERED) & !all(&ACTIVE);
            } else if let Some(word) = Word::ALL.iter().find(|w| w.name() == name) {
                bits |= bit(*word);
            } else {
                unknown.push(name.to_owned());
            }
        }
        (Words(bits & all(&ANSWERED)), unknown)
    }
    /// Whether `word` is answered.
    pub fn allows(self, word: Word) -> bool {
        self.0 & bit(word) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whitelist_reads_as_zookeepers() {
        let (words, unknown) = Words::parse("ruok, mntr ,nope");
        assert!(words.allows(Word::Ruok) && words.allows(Word::Mntr) && words.allows(Word::Srvr));
        assert!(!words.allows(Word::Stat) && !words.allows(Word::Cons));
        assert_eq!(unknown, ["nope"]);
        assert!(Words::parse("*").0.allows(Word::Cons));
        assert!(!Words::parse("*").0.allows(Word::Dump), "no answer exists yet");
        assert!(Words::default().allows(Word::Isro));
    }

    #[test]
    fn a_word_that_changes_something_is_not_enabled_by_a_star() {
        assert!(!Words::parse("*").0.allows(Word::Lead));
        assert!(Words::parse("*,lead").0.allows(Word::Lead));
    }
}
