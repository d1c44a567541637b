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

/// A name in a whitelist that enables nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// As written.
    pub name: String,
    /// It is one of ZooKeeper's words, and has no answer here.
    pub known: bool,
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
    /// Reads `4lw.commands.whitelist`: names separated by commas, or `*`. `srvr` is always enabled. Names that
    /// enable nothing are returned beside the result, for a warning.
    pub fn parse(list: &str) -> (Self, Vec<Misfit>) {
        let mut bits = bit(Word::Srvr);
        let mut misfits = Vec::new();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if name == "*" {
                bits |= all(&ANSWERED) & !all(&ACTIVE);
            } else if let Some(word) = ANSWERED.iter().find(|w| w.name() == name) {
                bits |= bit(*word);
            } else {
                let known = Word::ALL.iter().any(|w| w.name() == name);
                misfits.push(Misfit { name: name.to_owned(), known });
            }
        }
        (Words(bits), misfits)
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
        let (words, misfits) = Words::parse("ruok, mntr ,nope,dump");
        assert!(words.allows(Word::Ruok) && words.allows(Word::Mntr) && words.allows(Word::Srvr));
        assert!(!words.allows(Word::Stat) && !words.allows(Word::Cons));
        let misfit = |name: &str, known| Misfit { name: name.to_owned(), known };
        assert_eq!(misfits, [misfit("nope", false), misfit("dump", true)]);
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
