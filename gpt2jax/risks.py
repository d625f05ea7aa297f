"""What a model may do wrong: the section that every run's report and every exported model carries."""

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
