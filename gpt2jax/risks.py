"""What a model is for, what it may do wrong, and who has written of it: sections that models are given with them."""

# The first three paragraphs are what OpenAI's model card for GPT-2 and its paper (Radford et al. 2019) report, in our
# words; the last is about models that the card does not speak of.
RISKS = """\
## Risks

**It does not know what is true.** The model continues text. It states falsehoods as fluently as facts, and invents
names, quotations and sources. Do not use it where what it writes has to be true.

**It repeats what it was trained on.** GPT-2's own weights were trained on the text of web pages that Reddit users had
linked to, chosen by their votes. Links from some offensive subreddits were left out; what the pages say was not
filtered: slurs, slander, private details and prejudice about gender, race, religion and much else are in it, and in
what the model writes. OpenAI's probes for such bias found no significant difference between the two largest models: a
larger one is no safer. Passages that the training text repeats often may come back word for word, whoever's they are.

**Study it before people meet it.** Do not build it into something that people deal with before the biases that
matter there have been studied, on this model and for this use. It has not been trained to follow instructions, to
refuse, or to keep out of harm's way; text that looks written by a person is easily misused for deceit and spam.

**Other weights, other faults.** A model trained from scratch has the faults of its own text, and nobody has studied
them unless it says so here. Fine-tuning adds those of the new text and is not known to remove the old ones; neither is
a filter on outputs. A small model makes less sense, which is not the same as less harm.
"""

USES = """\
## Uses

**Intended**: research on language models and on what is wrong with them, teaching, starting points for fine-tuning,
writing aids, games and art in which nobody takes the text for fact.

**Out of scope**: whatever needs the text to be true; decisions about people; anything that people deal with before
the biases that matter there have been studied; deceit, spam and impersonation. Not for advice on health, law or
money.
"""

# What OpenAI's card and paper, and work after them, say of it.
READING = """\
## Reading on

* Radford et al. (2019) and OpenAI's model card: what the first three paragraphs of the risks are from.
* Solaiman et al. (2019), "Release Strategies and the Social Impacts of Language Models": OpenAI's report on the
  releases.
* Sheng et al. (2019), "The Woman Worked as a Babysitter: On Biases in Language Generation"; Sheng et al. (2021),
  "Societal Biases in Language Generation: Progress and Challenges".
* Bender et al. (2021), "On the Dangers of Stochastic Parrots: Can Language Models Be Too Big?"
* Gehman et al. (2020), "RealToxicityPrompts": toxic text from prompts that are not.
* Blodgett et al. (2021), "Stereotyping Norwegian Salmon": what is wrong with data sets that measure stereotypes.
"""
