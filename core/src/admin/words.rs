//! The whitelist of four-letter words: which words this server answers. Which four bytes form a word is
//! decided by the wire format. A word without an answer cannot be enabled, not even by `*`.

pub use paddock_transport::wire::FourLetterWord as Word;

/// Words with an answer. Other words of ZooKeeper get the whitelist's refusal, even under `*`.
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

/// Words that change something. Enabled by name only, never by `*`.
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
    pub name: String,
    /// Whether the name is a word of ZooKeeper that has no answer here.
    pub known: bool,
}

/// A set of enabled words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words(u32);

impl Default for Words {
    /// `srvr,ruok,mntr,stat,isro`: the words of health checks and exporters. None of them lists watched
    /// paths.
    fn default() -> Self {
        Words(all(&[Word::Srvr, Word::Ruok, Word::Mntr, Word::Stat, Word::Isro]))
    }
}

impl Words {
    /// Reads `4lw.commands.whitelist`: names separated by commas, or `*`. Always enables `srvr`. Also
    /// returns the names that enable nothing, for a warning.
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
