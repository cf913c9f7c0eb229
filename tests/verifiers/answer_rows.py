r"""Responses without a box, as small instruct models, thinking models and data sets write them.

Every row: the row's answer, the response, the rule that reads it, and, where it matters, the
question.
"""

from __future__ import annotations

RIGHT: list[tuple[str, str, str] | tuple[str, str, str, str]] = [
    # small instruct models
    ("15", "Lena now has 6 + 9 = 15 apples. The answer is 15.", "stated"),
    ("15", "So the final answer is: **15**", "stated"),
    ("15", "Therefore, the answer is 15 apples, since 6 and 9 make that many.", "stated"),
    ("72", "**Final Answer:** 72", "stated"),
    ("72", "### Final Answer\n\n72", "stated"),
    ("72", "The correct answer would be 72!", "stated"),
    ("72", "9 times 8 equals 72.", "sentence"),
    ("72", "Step 1: Write 9 * 8.\nStep 2: Multiply.\n\n9 * 8 = 72", "line"),
    ("32", "Omar has **32 dollars** left.", "bold"),
    ("32", "50 - 18 = 32\n\nOmar has 32 dollars left.", "sentence"),
    ("140", "She reads 20 pages * 7 days = 140 pages in a week.", "sentence"),
    ("9", "Dividing both sides by 3, we get\n\nx = 9", "line"),
    ("7", "First we compute 7! = 5040.\nThe result is 7.", "stated"),
    ("10", "The sequence goes up by two each time, so the next number is 10.", "sentence"),
    ("180", "The train travels 180 miles", "sentence"),
    ("8", "120 / 15 = 8, so she needs 8 weeks.", "sentence"),
    # the form that was asked for
    ("18", "She sells 9 eggs for 2 dollars each, 9 * 2 = <<9*2=18>>18.\n#### 18", "hashes"),
    ("1450", "Adding up gives the total.\n#### 1,450", "hashes"),
    ("-3", "#### -3", "hashes"),
    ("70000", "The profit is 200000 - 130000 = 70000.\n#### $70,000", "hashes"),
    ("42", "<answer>42</answer>", "tag"),
    ("42", "I add the two. <answer> 17 + 25 = 42 </answer>", "tag"),
    # thinking models
    ("12", "<think>The answer is 13. No: 144 / 12 = 12.</think>\nThe answer is 12.", "stated"),
    ("12", "12 times 12 is 144, so the answer is 12.</think>\n\n**12**", "bold"),
    ("12", "<think>\\boxed{144}</think>The quotient is 12.", "sentence"),
    ("60", "[THINK]5 * 12 = 50? No, 60.[/THINK]There are 60 eggs.", "sentence"),
    # LaTeX
    (r"\frac{3}{4}", r"The answer is $\frac{3}{4}$.", "stated"),
    (r"\frac{3}{4}", r"Thus we get \(\frac{6}{8} = \frac{3}{4}\).", "sentence"),
    (r"\frac{3}{4}", "The answer is:\n\n$$\n\\dfrac{3}{4}\n$$", "stated"),
    (r"\frac{3}{4}", "Hence\n\\[\n\\frac{1}{2} + \\frac{1}{4} = \\frac{3}{4}\n\\]", "line"),
    (r"2\sqrt{3}", r"The length is $2\sqrt{3}$.", "sentence"),
    (r"\frac{\pi}{6}", r"The answer is \(\frac{\pi}{6}\) radians.", "stated"),
    ("x^2+2x+1", r"Answer: $x^2 + 2x + 1$", "stated"),
    # units, separators, per cent, fractions
    ("28", "The area of the rectangle is 28 cm.", "sentence"),
    ("28", "The answer is 28 square centimetres.", "stated"),
    ("5000", "The answer is 5,000.", "stated"),
    ("1234567", "In total that makes 1,234,567 people.", "sentence"),
    ("2500000", "The answer is 2.5 million.", "stated"),
    (r"60\%", "Answer: 60%", "stated"),
    (r"60\%", "3/5 is the same as 60 percent. The answer is 60 percent.", "stated"),
    ("14", "The total cost is $14.", "sentence"),
    ("14.50", "The answer is $14.50.", "stated"),
    (r"\frac{5}{8}", "The answer is 5/8 of the cake.", "stated"),
    (r"40\%", "The answer is 40% of all students.", "stated"),
    ("3", "1. We divide 15 by 5.\n2. The quotient is 3.", "sentence"),
    (r"\frac{7}{2}", "Answer: 3 1/2", "stated"),
    ("0.25", "The answer is 0.25.", "stated"),
    # intervals, sets, matrices, several answers
    ("(2,5]", "The answer is (2, 5].", "stated"),
    (r"(-\infty, 3]", r"Thus the solution is $x \in (-\infty, 3]$.", "stated"),
    (r"\{1,2,3\}", "The answer is {1, 2, 3}.", "stated"),
    ("(3,4)", "The answer is the point (3, 4).", "stated"),
    (
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"The answer is $\begin{pmatrix} 1 \\ 2 \end{pmatrix}$.",
        "stated",
    ),
    ("5, -2", "The answer is x = 5 or x = -2.", "stated"),
    ("-2, 5", r"So the solutions are $x = 5$ and $x = -2$.", "stated"),
    ("3, -3", "The answers are 3 and -3.", "stated"),
    ("y = 2x + 1", "The answer is y = 2x + 1.", "stated"),
    # several statements: the last one counts
    ("12", "The answer is 13. Wait, let me check. The answer is 12.", "stated"),
    ("12", "The sum of 5 and 7 is 12, which is the number we were asked for.", "sentence"),
    # words
    ("Monday", "The answer is Monday.", "stated"),
    # other signs, other scripts
    ("-7", "The answer is \u22127.", "stated"),
    ("42", "\u7b54\u6848\u662f42\u3002", "stated"),
    ("42", "The answer\u00a0is\u00a042", "stated"),
]

WRONG: list[tuple[str, str] | tuple[str, str, str]] = [
    # another answer, though the right number occurs
    ("15", "6 + 9 = 15, but she ate one. The answer is 14."),
    ("9", "9 times 8 is 17. So, the final answer is 17."),
    ("72", "The answer is 72 more than 5."),
    ("12", "144 divided by 12 is 13 with a remainder of 4."),
    ("5", "The answer is 5 or 6."),
    ("5", "The solutions are x = 5 or x = -2."),
    ("-2", "The solutions are x = 5 or x = -2."),
    ("5", "The answer is 5.5."),
    ("5", "Answer: 5x"),
    ("5", "The answer is -5."),
    ("50", "The answer is 50,000."),
    (r"\frac{3}{4}", r"The answer is $\frac{4}{3}$."),
    (r"\frac{1}{2}", "The answer is 1/2 of 30."),
    ("60", "3 hours and 60 minutes"),
    ("(2,5]", "The answer is (2, 5)."),
    (r"\{1,2,3\}", "The answer is {1, 2}."),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"Answer: $\begin{pmatrix}2\\1\end{pmatrix}$"),
    # no answer
    ("5", "The answer is not 5."),
    ("5", "I doubt that the answer is 5."),
    ("5", "Is the answer 5?"),
    ("5", "The answer could be 5 or perhaps 7."),
    ("5", "It may be 5."),
    ("5", "The answer is between 4 and 5."),
    ("5", "The answer is about 5."),
    ("5", "The answer is more than 5."),
    ("12", "To find the total, I will multiply 3 * 4."),
    ("12", "So what is 3 * 4 = 12?"),
    ("6", "Now we only have to compute 2 * 3 ="),
    # a number of the question
    ("6", "Lena has 6 apples.", "Lena has 6 apples. She loses none. How many has she?"),
    ("12", "A box holds 12 eggs", "A box holds 12 eggs. How many eggs are in 1 box?"),
    # inside the thinking only, or cut off
    ("15", "<think>The answer is 15.</think> I cannot say."),
    ("15", "<think>The answer is 15."),
    ("15", "<think>6 + 9 = 15</think> The answer is 16."),
    ("15", "She has 6 + 9 = 15. The answer is"),
    ("15", "6 + 9 = 15.\n\n**Final Answer:**"),
    ("15", "6 + 9 = 15.\n<answer>"),
    ("15", r"6 + 9 = 15, so the answer is \boxed{1"),
    ("15", "6 + 9 = 15\n####"),
    # other things than answers
    ("3", "I did three things.\n\n1. Add.\n2. Subtract.\n3. Multiply the two."),
    ("3", "Steps:\n1. Add.\n2. Subtract.\n3. Multiply."),
    ("Monday", "The answer is Tuesday."),
    ("5", "####"),
    ("5", ""),
    ("5", "\n\n"),
    ("5", "I am sorry, I cannot help with that."),
]
