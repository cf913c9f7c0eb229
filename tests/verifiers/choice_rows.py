r"""Responses to multiple-choice questions and the options that they settle on.

A row is: options, letter or - for none, response; \n is a new line.
"""

from __future__ import annotations

CHOICES = {
    "metal": ("silver", "iron", "zinc", "none of these"),
    "city": ("Paris", "London town", "Rome", "A dog"),
    "bac": ("B. cepacia", "E. faecalis", "S. mutans", "P. vulgaris"),
    "bool": ("yes", "no"),
    "tf": ("True", "False"),
    "num": ("3", "5", "8", "12"),
    "neg": ("-3", "3", "0.5", "5"),
    "frac": ("$\\frac{2}{3}$", "$2$"),
    "pre": ("red", "red wine", "wine", "white"),
    "gen": ("AA", "Aa", "aa", "AB"),
    "rom": ("I only", "II only", "I and II", "neither I nor II"),
    "cells": ("B cells", "T cells", "NK cells", "mast cells"),
    "code": ("x = 1", "x == 1", "x_1", "2*3"),
    "dup": ("same", "same", "other", "more"),
    "unit": ("10 m", "10 m/s", "10 m/s^2", "1 m"),
    "all": ("oxygen", "water", "salt", "All of the above"),
    "lab": ("A) one hen", "B) two hens", "C) three hens"),
    "ab": ("b", "a", "d", "c"),
    "zh": ("红色", "绿色", "蓝色", "以上都不是"),
}

SETTLED = r"""
metal  B | B
metal  B | (B)
metal  B | B.
metal  B | B)
metal  B | b
metal  B | (b)
metal  B | **B**
metal  B | **(B)**
metal  B | （Ｂ）
metal  B | 答案：Ｂ
metal  B | 答案是B
metal  B | 答案是B。
metal  B | 正确答案是B，因为铁会生锈。
metal  B | 因此选B
metal  B | 故选（B）。
metal  B | Ⓑ
metal  B | Option B
metal  B | Option B.
metal  B | Choice (B)
metal  B | B) iron
metal  B | B. iron
metal  B | B: iron
metal  B | B - iron
metal  B | B — iron
metal  B | B iron
metal  B | B (iron)
metal  B | (B) iron
metal  B | iron
metal  B | Iron.
metal  B | "iron"
metal  B | **iron**
metal  B | Answer: B
metal  B | answer: b
metal  B | ANSWER: B
metal  B | Answer:B
metal  B | Answer : B
metal  B | Answer - B
metal  B | Answer = B
metal  B | **Answer:** B
metal  B | **Answer**: B
metal  B | **Answer: B**
metal  B | ### Answer\nB
metal  B | ### Answer: B
metal  B | Answer:\n\nB
metal  B | Answer: (B) iron
metal  B | Answer: option B
metal  B | Answer: Option (B).
metal  B | Final answer: B
metal  B | Final Answer: **B**
metal  B | My answer is B.
metal  B | The answer is B because rust is iron.
metal  B | The answer is B, because rust is iron.
metal  B | The answer is B since A is wrong.
metal  B | The answer is (B) because (A) and (C) are wrong.
metal  B | The answer is B, not C.
metal  B | The answer is B rather than C.
metal  B | The answer is B; rust is iron.
metal  B | The answer is B.\n
metal  B | The answer is B. This answer is supported by botany.
metal  B | The answer is iron, because of chlorophyll.
metal  B | The answer is therefore B.
metal  B | The answer is most likely B.
metal  B | The answer is clear: B.
metal  B | The answer is: B
metal  B | The answer is:\n\nB) iron
metal  B | The answer is 'B'.
metal  B | The answer is "B".
metal  B | The answer to the question is B.
metal  B | The answer to this question is therefore (B).
metal  B | The answer must be B.
metal  B | The answer would be B.
metal  B | The answer should be (B).
metal  B | The correct option is (b).
metal  B | The correct choice is B
metal  B | The best answer is B.
metal  B | The right answer is iron
metal  B | Therefore, the correct answer is option B.
metal  B | So the answer is $B$.
metal  B | So the answer is \text{B}.
metal  B | The answer is \(\mathbf{B}\).
metal  B | I think it's B
metal  B | I believe it is (B).
metal  B | I would choose B.
metal  B | I'd go with B.
metal  B | I choose option B.
metal  B | I'll go with (B) iron.
metal  B | \boxed{B}
metal  B | \boxed{\text{B}}
metal  B | \boxed{\textbf{(B)}}
metal  B | $\boxed{B}$.
metal  B | \boxed{\text{B) iron}}
metal  B | \boxed{iron}
metal  B | \boxed{b}
metal  B | \boxed B
metal  B | Thus \boxed{B}. This is the metal of rust.
metal  B | \boxed{A} is what I thought, but Answer: B
metal  B | <think>A looks likely.</think>\n\nB
metal  B | the answer is A?</think>\nAnswer: B
metal  B | <think>Answer: A</think>Answer: B
metal  B | <answer>B</answer>
metal  B | {"answer": "B"}
metal  B | ```json\n{"reasoning": "rust", "answer": "B"}\n```
metal  B | B\n\nExplanation: rust is iron.
metal  B | B\n\nExplanation: A is silver. C is zinc.
metal  B | B) iron\n\nGrass has chlorophyll.
metal  B | Rust is iron.\n\nB
metal  B | Rust is iron.\n\nB) iron
metal  B | Rust is iron.\n\nSo B.
metal  B | Rust is iron. Therefore, B is the correct answer.
metal  B | A is wrong, since rust is no rose. B is correct.
metal  B | (B) is the correct answer because rust is iron.
metal  B | B is the right choice.
metal  B | Option B is the best answer.
metal  B | Iron is the correct answer.
metal  B | A) silver\nB) iron\nC) zinc\nD) none of these\n\nAnswer: B
metal  B | A) silver\nB) iron\nC) zinc\nD) none of these\n\nB
metal  B | A) silver - no\nB) iron - yes\nC) zinc - no\n\nThe answer is B) iron.
metal  B | Answer: A\nno:\nAnswer: B
metal  B | The answer is A. Wait, no, the answer is B.
metal  B | Answer: B\n\nQuestion: What is snow?\nA) silver\nB) white\nAnswer: A
metal  B | Step 1: look.\nStep 2: rust is iron.\nAnswer: B<|im_end|>
metal  B | Respuesta: B
metal  B | La respuesta correcta es B.
metal  B | Antwort: B
metal  B | Die Antwort ist B.
metal  B | La réponse est B.
metal  B | Ответ: B
metal  B | Answer: B\n\nI hope this helps!
metal  B | The answer is B) iron. If you have questions, ask.
metal  B | Sure! The answer is B.
metal  B | Answer: B.\nExplanation of the answer: the rust is iron.
metal  B | Answer: Iron
metal  B | Answer: the iron one is nice, so B.\nAnswer: B
metal  D | Answer: none of these
metal  D | Answer: None of the above
metal  D | D) none of these
metal  D | The answer is D because none of these fit.
bac    A | Answer: B. cepacia
bac    A | Answer: A
bac    B | Answer: B. E. faecalis
bac    B | Answer: B
bac    B | Answer: B.
bac    B | Answer: (B) E. faecalis
bac    B | Answer: E. faecalis
bac    A | The answer is A) B. cepacia.
bac    A | The answer is B. cepacia because it forms spores.
frac   A | Answer: $\frac{2}{3}$
frac   A | Answer: \frac{2}{3}
frac   A | Answer: 2/3
frac   A | \boxed{\frac{2}{3}}
frac   A | \boxed{\dfrac23}
frac   B | Answer: $2$
frac   B | Answer: 2
bool   A | Answer: yes
bool   A | yes
bool   A | Yes.
bool   A | yes, it is.
bool   A | Yes, the passage says that it is so.
bool   A | Answer: yes, it is.
bool   A | Answer: Yes.
bool   A | **Answer: yes**
bool   B | No, it is not.
bool   B | No. The passage says otherwise.
bool   B | Answer: no
bool   B | Answer: no, because yes would need more.
bool   B | The answer is no.
bool   B | Answer: "no"
bool   B | Answer: false
bool   A | The answer is True.
bool   A | Yes\n\nThe passage states this in its second line.
bool   A | The passage states this.\nAnswer: yes\n
bool   A | 答案是yes
tf     A | True
tf     B | The statement is false.\nAnswer: False
tf     A | Answer: yes
tf     A | true.
num    A | Answer: 3
num    A | \boxed{3}
num    A | The answer is 3.
num    C | Answer: C
num    C | Answer: C) 8
num    C | Answer: 8
num    D | The answer is 12, because 3 + 9 = 12.
neg    A | Answer: -3
neg    A | Answer: −3
neg    B | Answer: 3
neg    C | Answer: 0.5
neg    D | Answer: 5
pre    A | Answer: red
pre    B | Answer: red wine
pre    B | Answer: Red wine.
pre    C | Answer: wine
gen    B | Answer: Aa
gen    C | Answer: aa
gen    A | Answer: AA
gen    D | Answer: ab
gen    A | Answer: A
rom    C | Answer: I and II
rom    A | Answer: I only
rom    D | Answer: neither I nor II
rom    C | Answer: C) I and II
cells  A | Answer: B cells
cells  B | Answer: B
cells  B | Answer: B) T cells
cells  B | Answer: T cells
code   A | Answer: x = 1
code   A | Answer: `x=1`
code   B | Answer: `x == 1`
code   C | Answer: x_1
code   D | Answer: 2*3
code   D | Answer: 2 * 3
dup    A | Answer: A
dup    B | Answer: B) same
unit   A | Answer: 10 m
unit   B | Answer: 10 m/s
unit   C | Answer: 10 m/s^2
unit   C | Answer: 10 m/s^{2}
unit   B | Answer: 10 m/s.
all    D | Answer: All of the above
all    D | Answer: all of these
lab    B | Answer: B
lab    B | Answer: two hens
lab    B | Answer: B) two hens
ab     B | Answer: B
zh     B | 答案：绿色
zh     B | 答案是：B. 绿色
zh     D | 答案是以上都不是。
city   D | A dog
city   D | Answer: A dog
city   A | Answer: A
city   B | Answer: B, London town
city   B | The answer is B) London town
city   A | Answer: Paris, the capital of France.
city   B | Answer: London town
city   B | London town is the correct answer.
metal  C | Answer: B\nAnswer: C
metal  A | <think>B</think>A
metal  B | A is wrong. C is wrong too. B is correct.
metal  B | Answer: B. A is wrong.
metal  B | Let's look.\n\nOption A is silver.\nOption B is iron, as rust is.\n\n**Answer: B**
metal  B | Based on the passage, the answer is **B) iron**.
metal  B | The color of rust is **iron**. So the correct answer is:\n\n**B) iron**
metal  B | The correct answer is B) iron. Rust contains chlorophyll.
metal  B | Answer: B) iron - because of chlorophyll
metal  B | Here's why:\n1. Rust is iron.\n2. B says iron.\n\nTherefore, the answer is B
metal  B | Answer: B (iron), because it rusts.
metal  B | The answer is: **B**.\n\nExplanation:\n- A) silver is the metal of roses.
metal  B | Answer: B\n\nA) silver is not right.\nC) zinc is not right.
metal  B | answer: "b"
metal  B | Answer: [B]
metal  B | Answer: {B}
metal  B | Answer: <B>
metal  B | The answer is option (B): iron
metal  B | The final answer is $\boxed{B}$
metal  B | \[\boxed{\text{B. iron}}\]
metal  B | I would say it's B, though I am not certain.
metal  B | The answer is B.\nThe answer is B.
metal  B | Thus, the correct answer is (B) iron.<|endoftext|>
metal  B | <|channel|>analysis<|message|>Maybe A<|end|><|channel|>final<|message|>Answer: B
metal  B | *Answer:* B
metal  B | Answer： B
metal  B | Answer: 【B】
metal  B | Answer: B。
metal  B | The correct letter is B.
metal  B | Select option B.
metal  B | Therefore, option (B) is correct.
metal  B | Answer: B \n
metal  B | Answer: B.)
bool   B | Answer: no\n\nQuestion: is it?\nAnswer: yes
bool   A | Yes, it is true that the sky is blue.
bool   B | Based on the passage, the answer is no.
bool   B | **No**, the passage does not say so.
bool   A | Answer: yes (the passage says so)
bool   A | So the answer is yes.
bool   A | Answer: **Yes**
bool   A | Answer: Yes - it does.
bool   A | Yes, vitamin B is found in it.
metal  B | The answer is (B), i.e. iron.
metal  B | The correct answer is: B. iron
metal  B | The correct answer is B:iron
metal  B | Therefore, the answer is: \\n\\n$\boxed{B}$
metal  B | **Final Answer**\n\nB
metal  B | **Final Answer**: The final answer is $\boxed{B}$. I hope it is correct.
metal  B | Answer: B\n```
metal  B | ```\nAnswer: B\n```
metal  B | Answer: B\n---
metal  B | "Answer: B"
metal  B | The answer is B!
metal  B | B is my answer.
metal  B | My choice is B.
metal  B | I'd say B.
metal  B | It's B.
metal  B | It is (B).
metal  B | The most appropriate answer is B) iron.
metal  B | Therefore, option B (iron) is correct.
metal  B | So, the correct answer would be option B: iron.
metal  B | Hence, (B).
metal  B | Thus the answer: B
metal  B | The answer is B. The other options A, C, and D are incorrect.
metal  B | The answer is B. Options A and C are incorrect.
metal  B | The answer is B. \n\nA is incorrect because rust is no rose.\nC is, too.
metal  B | A: silver is incorrect.\nB: iron is correct.\nC: zinc is incorrect.\n\nAnswer: B
metal  B | Answer: B. iron\nReason: rust is iron.
metal  B | Answer: (B)iron
metal  B | Answer:(B)
metal  B | Answer -> B
metal  B | ANSWER: **(B)**
metal  B | Correct answer: B
metal  B | Correct option: B
metal  B | Option B is the correct answer.
metal  B | So the final answer is B) iron. Hope this helps!
metal  B | Answer: B.\n\nNote: The answer may vary.
metal  B | Answer: iron (B)
metal  B | iron (option B)
metal  B | The answer is iron, which is option B.
metal  B | iron, i.e. B
metal  C | Someone might say the answer is B. But the answer is C.
bool   A | Yes, that is correct.
bool   B | No, that is not correct.
bool   B | The answer is "no".
bool   A | Answer: YES
bool   A | Yes!
bool   B | No - the passage says the opposite.
bool   B | Based on the passage, no, it did not.
bool   A | According to the passage, yes.
bool   A | answer:yes
bool   B | The statement is false so the answer is no.
bool   B | It's not true, so the answer is no.
"""

UNSETTLED = r"""
bac    - | Answer: B. mallei
bac    - | Answer: B. B. cepacia
frac   - | Answer: 1/3
frac   - | Answer: 2.5
bool   - | Answer: yes or no
bool   - | Answer: yes/no
bool   - | Answer: yes and no
bool   - | Answer: not yes
bool   - | Answer: maybe
bool   - | Answer: no one knows
bool   - | Answer: nobody
bool   - | Answer: yesterday
bool   - | I will end with "Answer: yes" or "Answer: no".
bool   - | The passage does not say.
bool   - | Answer: yes?
bool   - |
bool   - | Answer:
tf     - | true or false
num    - | Answer: C) 3
num    - | Answer: 35
num    - | Answer: 3.5
num    - | Answer: 3,5
num    - | Answer: 3%
num    - | Answer: 3, 5
num    - | Answer: 3 or 5
num    - | Answer: -3
num    - | Answer: 4
num    - | Answer: 3/5
num    - | Answer: 3 x 5
num    - | Answer: 3^2
num    - | Answer: 3...
neg    - | Answer: 0.55
pre    - | Answer: red meat
pre    - | Answer: red wine or white
pre    - | Answer: redwine
gen    - | Answer: aA
rom    - | Answer: I
rom    - | Answer: I and III
cells  - | Answer: B) B cells
cells  - | Answer: B lymphocytes
code   - | Answer: 23
code   - | Answer: x
code   - | Answer: x = 12
dup    - | Answer: same
unit   - | Answer: 10 m/h
unit   - | Answer: 10
all    - | Answer: oxygen, water and salt
all    - | Answer: all
ab     - | Answer: b
zh     - | 答案是B和C
zh     - | 答案是B、C
city   - | Answer: A cat
city   - | A man walks.
city   - | A) London town
city   - | Answer: Paris, Texas
city   - | Answer: Paris in Texas
city   - | Answer: London
city   - | Answer: Bob
city   - | The options are A) Paris and
city   - | A) Paris\nB) London town\nC) Rome\nD) A dog
city   - | Answer: A) Paris\nB) London town\nC) Rome\nD) A dog
city   - | Answer: A) Paris B) London town C) Rome D) A dog
metal  - | Answer: (C) and (B)
metal  - | Answer: B and C
metal  - | Answer: B or C
metal  - | Answer: B, C
metal  - | Answer: B/C
metal  - | Answer: B & C
metal  - | Answer: BC
metal  - | Answer: B,C
metal  - | Answer: both B and C
metal  - | Answer: either B or C
metal  - | Answer: neither B nor C
metal  - | Answer: B (or C)
metal  - | Answer: A, B and C
metal  - | Answer: A and B are both right
metal  - | Answer: not B
metal  - | The answer is not B.
metal  - | The answer isn't B.
metal  - | The answer cannot be B.
metal  - | The answer could be B.
metal  - | The answer might be B or C.
metal  - | The answer is B?
metal  - | The answer is either B or C.
metal  - | The answer is B or maybe C.
metal  - | The answer is B, or possibly C.
metal  - | The answer is B; otherwise C.
metal  - | The answer is between B and C.
metal  - | The answer is one of B and C
metal  - | Answer: E
metal  - | Answer: Z
metal  - | Answer: X
metal  - | Answer: B) silver
metal  - | Answer: B. silver
metal  - | Answer: B, silver
metal  - | Answer: B (silver)
metal  - | Answer: silver, zinc
metal  - | Answer: silver and zinc
metal  - | Answer: silver or zinc
metal  - | Answer: lead
metal  - | Answer: silvery
metal  - | Answer: quicksilver
metal  - | Answer: 2
metal  - | Answer: B2
metal  - | Answer: B+
metal  - | Answer: B-cell
metal  - | Answer: (B
metal  - | Answer: "B or C"
metal  - | Answer: A man is silver
metal  - | Answer: A B C D
metal  - | Answer: A) B) C) D)
metal  - | Answer: B\nAnswer: E
metal  - | Answer: B\nno:\nAnswer:
metal  - | Answer: B\nAnswer: not B
metal  - | Answer: C\nAnswer: B or C
metal  - | \boxed{B} \boxed{A}
metal  - | \boxed{B} or \boxed{C}
metal  - | \boxed{B}, \boxed{C}
metal  - | \boxed{B, C}
metal  - | \boxed{B \text{ or } C}
metal  - | \boxed{B\text{ and }C}
metal  - | \boxed{BC}
metal  - | \boxed{B
metal  - | \boxed{}
metal  - | \boxed{42}
metal  - | \boxed{B} and then \boxed{
metal  - | \boxed{\text{not B}}
metal  - | \boxed{A \cup B}
metal  - | <think>The answer is B
metal  - | <think>B</think>
metal  - | <think>B</think>\n\n
metal  - | I am not sure.
metal  - | I don't know.
metal  - | B is wrong.
metal  - | B is incorrect.
metal  - | B is not the correct answer.
metal  - | (B) is wrong and so is (C).
metal  - | A is correct. B is correct.
metal  - | Neither A nor B is correct.
metal  - | Both A and B are correct.
metal  - | The wrong answer is B.
metal  - | An incorrect answer is B.
metal  - | The options are A, B, C and D.
metal  - | Let's look at option B first.
metal  - | A) silver\nB) iron
metal  - | A\nB\nC\nD
metal  - | B\nC
metal  - | A) silver B) iron C) zinc D) none of these
metal  - | B grade
metal  - | Be careful.
metal  - | A rose is silver.
metal  - | Vitamin B
metal  - | Plan B is good.
metal  - | The rust is iron and the sky is zinc.
metal  - | Is it B?
metal  - | B? C?
metal  - | B or not B
metal  - | Answer: none
metal  - | Answer: unclear
metal  - | Answer: None, since B and C are both true
metal  - | 答案是B或C
metal  - | 答案：不是B
metal  - | Answer: a iron one? B or C
metal  - | The answer choices are: A) silver, B) iron
metal  - | B, C
metal  - | (A)(B)
metal  - | [B, C]
metal  - | {"answer": ["B", "C"]}
metal  - | Answer: B C
metal  - | Answer: B; C
metal  - | Answer: B + C
metal  - | Answer: B|C
metal  - | Answer: B vs C
metal  - | Answer: B > C
metal  - | Answer: B...
metal  - | Answer: B = C
metal  - | Answer: B'
metal  - | The answer is a
metal  - | Option B is silver.
metal  - | If the rust is iron the answer is B, otherwise C.
metal  - | Answer: B or something else
metal  - | Answer: Iron or zinc
metal  - | Answer: ironic
metal  - | Answer: not iron
metal  - | Answer: iron and silver
metal  - | It is unclear whether B is correct.
metal  - | B might be right.
metal  - | Could it be B?
metal  - | A is iron. B is silver.
metal  - | Answer: all of the options
metal  - | A. B. C. D.
metal  - | Answer: (A), (B)
metal  - | Answer: A-B
metal  - | Answer: b or c
metal  - | Answer: (b) and (c)
metal  - | Answer: b, c
metal  - | Answer: a & b
metal  - | Answer: options B and C
metal  - | Answer: Options (B) & (C)
metal  - | The answers are B and C
metal  - | The answer is B as well as C
metal  - | The answer is B. No wait, C is also possible. Answer: B or C
metal  - | The answer is B, C is also right
bool   - | Answer: yes, no
bool   - | Yes. No.
bool   - | No one knows.
bool   - | Yes and no.
metal  - | iron (option C)
metal  - | Answer: iron (C)
metal  - | Answer: zinc, option B
metal  - | The answer is iron, which is option C.
metal  - | Answer: Both
metal  - | The answer is A. Hmm, or B.
metal  - | Answer: B, though C could also be right.
metal  - | Answer: All options
metal  - | Answer: B and D) none of these
metal  - | None
metal  - | Answer: either
metal  - | I can't choose between B and C.
metal  - | I would not choose B.
metal  - | I don't think it's B.
metal  - | I think it's B or C.
metal  - | I think it's not B.
metal  - | It is unlikely that the answer is B.
metal  - | It's not true that the answer is B.
metal  - | I doubt that the answer is B.
metal  - | We don't know whether the answer is B.
metal  - | Is the correct answer B? No.
metal  - | The answer is B if rust is iron, and C if not.
metal  - | The answer is definitely not B.
metal  - | The answer is not (B) but (C).
metal  - | Someone might say the answer is B.
metal  - | Answer: B (wrong)
metal  - | Answer: B??
metal  - | Answer: not sure
metal  - | Answer: not sure, B
metal  - | Answer: I don't know
metal  - | Answer: I
metal  - | Answer: <B or C>
metal  - | Answer: A) silver, B) iron
metal  - | A and B
metal  - | Answer: X, where X is the letter of your choice.
metal  - | Answer: B or C?\nI cannot tell.
metal  - | The two answers are B and C.
metal  - | The answer: (A)/(B)
metal  - | Answer: A→B
metal  - | Answer: (A) -> (B)
metal  - | Answer: silver → iron
metal  - | Answer: AB
metal  - | Answer: A.B
metal  - | Answer: not A, B
bool   - | The answer is yes and no.
bool   - | The answer is neither yes nor no.
bool   - | Not necessarily yes.
bool   - | Answer: yes, but also no
bool   - | It depends: yes for A, no for B.
bool   - | It is false that the answer is no.
"""


def rows(table: str) -> list[tuple[str, str, str]]:
    """Split a table into (options, letter, response)."""
    found = []
    for line in table.strip().splitlines():
        head, _, response = line.partition(" |")
        name, letter = head.split()
        found.append((name, letter, response.removeprefix(" ").replace("\\n", "\n")))
    return found
