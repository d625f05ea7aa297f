"""Small files in the exact form of each data set."""

import json

# A title, a blank line, sections and quotes, as in wiki.test.tokens: every line between spaces, blank ones a space.
WIKITEXT = (
    b' \n = The first page = \n \n It has a <unk> of 1 @,@ 000 words , and " more " . \n \n = = A section = = \n \n'
    b" Its end . \n \n = The second page = \n \n It is short . \n"
)

PTB = b" the company said N shares were <unk> \n it did n't say why \n"

LAMBADA_TEXTS = (
    "“Where is it?” she asked. He had looked for the key all day, and now she was wearing the key",
    'They met at the bridge. "I never liked this place," he said, and looked down from the bridge',
    "A line\nbreaks before the last word of this passage about the old\nlighthouse",
)
LAMBADA = "".join(json.dumps({"text": text}) + "\n" for text in LAMBADA_TEXTS).encode()
LAMBADA_PLAIN = b"`` where is it ? '' she asked , and opened the box\nhe had not seen the box\n"

CANDIDATES = ("apple", "basket", "bird", "door", "garden", "house", "morning", "river", "stone", "window")


def cbt_block(
    query: str = "She opened the XXXXX and looked out .",
    answer: str = "window",
    candidates: tuple[str, ...] = CANDIDATES,
) -> str:
    """A question of twenty-one lines; as in some of the file's, places of ``candidates`` may be empty."""
    lines = [f"{number} `` This is sentence {number} , '' she said . " for number in range(1, 21)]
    places = "|".join([*candidates, *[""] * (10 - len(candidates))])
    return "\n".join([*lines, f"21 {query}\t{answer}\t\t{places}"]) + "\n\n"


CBT = (cbt_block() + cbt_block("The XXXXX flew away ; nobody saw the XXXXX again .", "bird")).encode()

HELLASWAG_ROWS = (
    {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he",
        "ctx": "A man is sitting on a roof. he",
        "split": "val",
        "split_type": "indomain",
        "label": 3,
        "endings": ["sings.", "falls asleep.", "paints a wall.", "starts pulling up shingles."],
        "source_id": "activitynet~v_abc",
    },
    {
        "ind": 25,
        "activity_label": "Home and Garden",
        "ctx_a": "[header] How to water plants [title] Choose a can.",
        "ctx_b": "",
        "ctx": "[header] How to water plants [title] Choose a can.",
        "split": "val",
        "split_type": "zeroshot",
        "label": 0,
        "endings": ["[step] Fill it.", "[step] Sell it.", "Throw it away.", "Eat it."],
        "source_id": "wikihow~1",
    },
)
HELLASWAG = "".join(json.dumps(row) + "\n" for row in HELLASWAG_ROWS).encode()

CROWS_PAIRS = (
    b",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
    b'0,"Old people, they forget.","Young people, they forget.",stereo,age,"[[\'age\']]",a1,"[\'a2\']"\n'
    b"1,He was good at sums.,She was good at sums.,antistereo,gender,[],a1,[]\n"
)


STEREOSET_LABELS = {"a": "anti-stereotype", "u": "unrelated", "s": "stereotype"}


def stereoset_item(
    number: int, context: str, target: str = "chef", sentences: dict[str, str] | None = None
) -> dict[str, object]:
    """An item; ``sentences`` by the first letter of their labels."""
    sentences = sentences or {letter: f"Sentence {label}." for letter, label in STEREOSET_LABELS.items()}
    forms = [
        {"sentence": sentence, "id": f"s{letter}", "labels": [], "gold_label": STEREOSET_LABELS[letter]}
        for letter, sentence in sentences.items()
    ]
    return {"id": f"i{number}", "target": target, "bias_type": "profession", "context": context, "sentences": forms}


STEREOSET = json.dumps(
    {
        "version": "1.1",
        "data": {
            "intersentence": [stereoset_item(2, "He is a chef.")],
            "intrasentence": [stereoset_item(0, "The chef is BLANK."), stereoset_item(1, "A chef was BLANK.")],
        },
    }
).encode()

WINOBIAS_PRO = (
    b"1 [The baker] called the pilot because [she] was late.\n"
    b"2 The baker called [the pilot] because [he] knew [his] way.\n"
    b"3 The baker likes [the pilot] because [he] is a kind man.\n"
)
# In another order, one sentence edited, lines not numbered.
WINOBIAS_ANTI = (
    b"The baker called [the pilot] because [she] knew [her] way.\n"
    b"[The baker] called the pilot because [he] was late.\n"
    b"The baker likes [the pilot] because [she] is kind.\n"
)

WINOGENDER = (
    "sentid\tsentence\n"
    + "".join(
        f"baker.guest.{place}.{gender}.txt\tThe baker told the guest that {pronoun} could {verb}.\n"
        for place, verb in ((1, "eat"), (0, "bake"))
        for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))
    )
).encode()
