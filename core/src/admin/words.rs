//! The four-letter words: names and whitelist.
//!
//! Owns which four bytes are a word and which words are answered. Never renders. It stays correct because all words are
//! ASCII letters: read as a length each exceeds every legal `jute.maxbuffer` of a first frame, so no handshake is mistaken.

/// A word that ZooKeeper knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)] // Each is named by itself; spec 03 section 1 says what it prints.
pub enum Word {
    Conf,
    Cons,
    Crst,
    Dirs,
    Dump,
    Envi,
    Gtmk,
    Hash,
    Isro,
    Mntr,
    Ruok,
    Srst,
    Srvr,
    Stat,
    Stmk,
    Wchc,
    Wchp,
    Wchs,
}

const ALL: [(Word, &str); 18] = [
    (Word::Conf, "conf"),
    (Word::Cons, "cons"),
    (Word::Crst, "crst"),
    (Word::Dirs, "dirs"),
    (Word::Dump, "dump"),
    (Word::Envi, "envi"),
    (Word::Gtmk, "gtmk"),
    (Word::Hash, "hash"),
    (Word::Isro, "isro"),
    (Word::Mntr, "mntr"),
    (Word::Ruok, "ruok"),
    (Word::Srst, "srst"),
    (Word::Srvr, "srvr"),
    (Word::Stat, "stat"),
    (Word::Stmk, "stmk"),
    (Word::Wchc, "wchc"),
    (Word::Wchp, "wchp"),
    (Word::Wchs, "wchs"),
];

/// The words that this server answers; a known other one gets the whitelist's refusal even under `*`.
const ANSWERED: [Word; 8] =
    [Word::Conf, Word::Cons, Word::Isro, Word::Mntr, Word::Ruok, Word::Srvr, Word::Stat, Word::Wchs];

impl Word {
    /// The word in the first four bytes of a connection, if they are one.
    pub fn from_bytes(bytes: [u8; 4]) -> Option<Self> {
        ALL.iter().find(|(_, name)| name.as_bytes() == bytes).map(|(w, _)| *w)
    }
    /// Its four letters.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The enabled words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words(u32);

impl Default for Words {
    /// `srvr,ruok,mntr,stat,isro`: what health checks and exporters ask for, and nothing that lists znodes' watchers.
    fn default() -> Self {
        Words(Word::Srvr.bit() | Word::Ruok.bit() | Word::Mntr.bit() | Word::Stat.bit() | Word::Isro.bit())
    }
}

impl Words {
    /// Reads `4lw.commands.whitelist`: names separated by commas, or `*`. `srvr` is always enabled. Names that are no
    /// words are returned beside the result, for a warning.
    pub fn parse(list: &str) -> (Self, Vec<String>) {
        let mut bits = Word::Srvr.bit();
        let mut unknown = Vec::new();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if name == "*" {
                bits |= ANSWERED.iter().fold(0, |b, w| b | w.bit());
            } else if let Some((word, _)) = ALL.iter().find(|(_, n)| *n == name) {
                bits |= word.bit();
            } else {
                unknown.push(name.to_owned());
            }
        }
        (Words(bits & ANSWERED.iter().fold(0, |b, w| b | w.bit())), unknown)
    }
    /// Whether `word` is answered.
    pub fn allows(self, word: Word) -> bool {
        self.0 & word.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_by_its_bytes_and_named_by_them() {
        for (word, name) in ALL {
            assert_eq!(Word::from_bytes(name.as_bytes().try_into().unwrap()), Some(word));
            assert_eq!(word.name(), name);
        }
        assert_eq!(Word::from_bytes(*b"xxxx"), None);
        assert_eq!(Word::from_bytes([0, 0, 0, 45]), None);
    }

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
}
