"""Boxed answers that are right and wrong.

A row is: the row's answer, the response.
"""

from __future__ import annotations

RIGHT = r"""
5678           | \boxed{5,678}
5678           | \boxed{5{,}678}
5678           | \boxed{5 678}
5678           | \boxed{5\!678}
5678           | \boxed{5,\!678}
5678           | \boxed{5\,678}
5678           | \boxed{5\ 678}
5678           | \boxed{5\;678}
5678           | \boxed{5~678}
5678           | \boxed{5\:678}
1234567        | \boxed{1,234,567}
1234567        | \boxed{1\,234\,567}
1234567        | \boxed{1_234_567}
1234567.5      | \boxed{1,234,567.5}
12345          | \boxed{12\,345}
5,678          | \boxed{5678}
5\,678         | \boxed{5678}
7              | \boxed{7.}
7              | \boxed{7,}
7              | \boxed 7
7              | \boxed 7.
7              | $\boxed7$
\frac{1}{2}    | \boxed\frac12
3, 4           | \boxed{3, 4}
3, 4           | \boxed{4, 3}
3,4            | \boxed{3 \text{ and } 4}
3,4            | \boxed{3,4}
(3,4)          | \boxed{(3,4)}
50             | \boxed{50\%}
50\%           | \boxed{50}
0.5            | \boxed{50\%}
50%            | \boxed{50\%}
50             | \boxed{50 \text{ percent}}
50             | \boxed{\$50}
50             | \boxed{$50}
50             | \boxed{$50$}
50             | \boxed{50\$}
50             | \boxed{€50}
50             | \boxed{£50}
50             | \boxed{50\text{ dollars}}
50             | \boxed{50 dollars}
1,000          | \boxed{\$1,000.00}
5              | \boxed{5 \text{ cm}}
5              | \boxed{5\,\text{cm}}
5              | \boxed{5\ \mathrm{cm}^2}
5              | \boxed{5\text{ cm}^2}
5              | \boxed{5 cm}
5              | \boxed{5 apples}
5              | \boxed{5\text{ km/h}}
5              | \boxed{5 \text{ students}}
5              | \boxed{5m}
3t             | \boxed{3t}
3\frac{1}{2}   | \boxed{3\frac{1}{2}}
3\frac{1}{2}   | \boxed{3.5}
3.5            | \boxed{3\frac{1}{2}}
3.5            | \boxed{3\frac12}
3.5            | \boxed{3 1/2}
3.5            | \boxed{3\ 1/2}
3\frac12       | \boxed{\frac{7}{2}}
-3.5           | \boxed{-3\frac{1}{2}}
90             | \boxed{90^\circ}
90             | \boxed{90°}
90             | \boxed{90^{\circ}}
90^\circ       | \boxed{90\text{ degrees}}
10^{21}        | \boxed{10^{21}}
1e+21          | \boxed{10^{21}}
1e21           | \boxed{1e21}
1e21           | \boxed{1 \times 10^{21}}
1e21           | \boxed{1000000000000000000000}
1e-06          | \boxed{0.000001}
1e-06          | \boxed{10^{-6}}
1e-06          | \boxed{1e-6}
1e-06          | \boxed{1\times10^{-6}}
1e-07          | \boxed{0.0000001}
10^{-9}        | \boxed{0.000000001}
6.02e23        | \boxed{6.02\times10^{23}}
6.02\times10^{23} | \boxed{6.02 \cdot 10^{23}}
1.5e3          | \boxed{1500}
2.5E-3         | \boxed{0.0025}
91.0           | \boxed{91}
72             | \boxed{72.0}
72             | \boxed{72.00}
72             | \boxed{072}
72             | \boxed{+72}
-72            | \boxed{−72}
-72            | \boxed{–72}
-72            | \boxed{－72}
\pm 72         | \boxed{\pm 72}
\pm 72         | \boxed{72, -72}
\frac{1}{2}    | \boxed{\frac12}
\frac{1}{2}    | \boxed{\dfrac{1}{2}}
\frac{1}{2}    | \boxed{\tfrac{1}{2}}
\frac{1}{2}    | \boxed{1/2}
\frac{1}{2}    | \boxed{½}
\frac{1}{2}    | \boxed{.5}
\frac{1}{2}    | \boxed{0{.}5}
\frac{1}{2}    | \boxed{1 / 2}
\frac{1}{2}    | \boxed{1\over2}
\frac{1}{2}    | \boxed{{1 \over 2}}
\frac{1}{2}    | \boxed{\frac{1}{2}.}
-\frac{1}{2}   | \boxed{\frac{-1}{2}}
-\frac{1}{2}   | \boxed{-1/2}
\infty         | \boxed{\infty}
\infty         | \boxed{∞}
\infty         | \boxed{+\infty}
\infty         | \boxed{\text{infinity}}
(-\infty, 3]   | \boxed{(-\infty, 3]}
(-\infty, 3]   | \boxed{\left(-\infty, 3\right]}
x \le 3        | \boxed{(-\infty, 3]}
5              | \boxed{\text{5}}
5              | \boxed{\mbox{5}}
5              | \boxed{\mathbf{5}}
5              | \boxed{\mathrm{5}}
5              | \boxed{\textbf{5}}
5              | \boxed{**5**}
5              | \boxed{ 5 }
5              | \boxed{{5}}
5              | \boxed{(5)}
5              | \boxed{\left(5\right)}
(1,2)          | \boxed{\left( 1, 2 \right)}
5              | \boxed{x = 5}
5              | \boxed{x=5}
5              | \boxed{2+3=5}
5              | \boxed{5=5}
x=5            | \boxed{5}
5              | \boxed{\boxed{5}}
5              | \boxed{\fbox{5}}
5              | \fbox{5}
5              | \boxed{4} \boxed{5}
5              | <think>\boxed{4}</think> \boxed{5}
5              | <think>so 5</think> \boxed{5}
x+1            | \boxed{1+x}
x^2            | \boxed{x²}
2\pi           | \boxed{2π}
\sqrt{2}       | \boxed{√2}
\sqrt{2}       | \boxed{\sqrt2}
2\sqrt{2}      | \boxed{2\sqrt{2}.}
3\times 4      | \boxed{3×4}
12             | \boxed{3 \cdot 4}
1\frac{1}{2}   | \boxed{1.5}
100000         | \boxed{100{,}000}
\text{Monday}  | \boxed{Monday}
\text{Monday}  | \boxed{monday}
\text{(B)}     | \boxed{B}
\text{(B)}     | \boxed{\text{(B)}}
11_2           | \boxed{11_2}
6:00           | \boxed{6:00}
1:2            | \boxed{1:2}
\{1,2\}        | \boxed{\{2, 1\}}
\{1,2\}        | \boxed{1,2}
\begin{pmatrix}1\\2\end{pmatrix} | \boxed{\begin{pmatrix}1\\2\end{pmatrix}}
120            | \boxed{5!}
1,2,3          | \boxed{1,2,3}
1,2,3          | \boxed{1, 2, 3}
(5,678)        | \boxed{(5,678)}
1000,2000      | \boxed{1000, 2000}
1000,2000      | \boxed{1,000, 2,000}
1000,2000      | \boxed{1{,}000, 2{,}000}
12345678       | \boxed{12 345 678}
12345678       | \boxed{12'345'678}
-5678          | \boxed{-5\,678}
5678.5         | \boxed{5\,678.5}
5678           | \boxed{\text{5,678}}
5678           | \boxed{５６７８}
5678           | \boxed{５，６７８}
5678           | \boxed{$5{,}678$}
5678           | \boxed{5678;}
5678           | \boxed{5678\%}
20             | \boxed{20\,\text{cm}}
20             | \boxed{20\ \text{m/s}}
20             | \boxed{20 m}
5d             | \boxed{5d}
20             | \boxed{20\text{ USD}}
20             | \boxed{20€}
20             | \boxed{¥20}
20             | \boxed{20.00 dollars}
1,2,3,\ldots   | \boxed{1, 2, 3, \ldots}
3.14           | \boxed{\approx 3.14}
3.14           | \boxed{\pi \approx 3.14}
\pi            | \boxed{\pi \approx 3.14}
20             | \boxed{20 \approx 21}
x \geq 3       | \boxed{x \ge 3}
x \geq 3       | \boxed{x ≥ 3}
x \geq 3       | \boxed{3 \le x}
0.0000003      | \boxed{3 \times 10^{-7}}
3 \times 10^{-7} | \boxed{3e-07}
1e300          | \boxed{10^{300}}
1e+16          | \boxed{10000000000000000}
1.5e+16        | \boxed{1.5 \cdot 10^{16}}
0.25           | \boxed{\frac14}
0.25           | \boxed{¼}
0.25           | \boxed{25\%}
0.25           | \boxed{.25}
0.25           | \boxed{0.250}
2\frac{1}{3}   | \boxed{2 1/3}
2\frac{1}{3}   | \boxed{7/3}
3, 4           | \boxed{\boxed{3}, \boxed{4}}
x^2            | \boxed{x^2.}
x^{10}         | \boxed{x¹⁰}
\frac{\sqrt{3}}{2} | \boxed{√3/2}
[0,1)          | \boxed{[0,1)}
[0,1)          | \boxed{[0, 1)}
(0,1)\cup(2,3) | \boxed{(0,1)∪(2,3)}
7              | [THINK]\boxed{8}[/THINK]\boxed{7}
7              | \boxed{7\text{ apples}}
7              | \boxed{\textbf{7}}
7              | \boxed{__7__}
7              | \boxed{|{-7}|}
"""

WRONG = r"""
5              | \boxed{5\ldots}
5              | \boxed{5\dots}
5              | \boxed{5...}
5              | \boxed{5…}
5              | \boxed{5\cdots}
0.333          | \boxed{0.333\ldots}
1/3            | \boxed{0.333\ldots}
5              | \boxed{\approx 5}
5              | \boxed{5 \text{ or } 6}
5              | \boxed{5 or 6}
3              | \boxed{3, 4}
(3,4)          | \boxed{(4,3)}
(3,4)          | \boxed{[3,4]}
[3,4]          | \boxed{[3,4)}
3              | \boxed{3 4}
34             | \boxed{3, 4}
34             | \boxed{3 4}
3              | \boxed{3; 4}
4              | \boxed{3, 4}
3              | \boxed{3t}
3t             | \boxed{3}
2m             | \boxed{2}
1.5            | \boxed{3\frac{1}{2}}
1e-06          | \boxed{0.00001}
1e-06          | \boxed{0}
1e-07          | \boxed{0.0000002}
0.0000001      | \boxed{0}
0              | \boxed{0.0000001}
0              | \boxed{10^{-9}}
10^{-9}        | \boxed{2\times 10^{-9}}
-72            | \boxed{72}
72             | \boxed{-72}
72             | \boxed{\pm 72}
\frac{1}{2}    | \boxed{\frac{2}{1}}
\infty         | \boxed{-\infty}
(-\infty, 3]   | \boxed{(-\infty, 3)}
(-\infty, 3]   | \boxed{x \le 3}
x=5            | \boxed{y=5}
5              | \boxed{x=6}
5              | \boxed{x=5, y=6}
5              | \boxed{5
5              | \boxed{4} \boxed{5
5              | \boxed{5} \boxed{4}
5              | <think>\boxed{5}
5              | \boxed{}
5              | \boxed{ }
5              | \boxed{\text{}}
5              | \boxed{?}
5              | \boxed{\text{five}}
5678           | \boxed{5.678}
5.678          | \boxed{5,678}
5678           | \boxed{56,78}
12             | \boxed{1,2}
1.5            | \boxed{1,5}
100            | \boxed{100{,}000}
\text{Monday}  | \boxed{\text{Tuesday}}
B              | \boxed{C}
6:00           | \boxed{6}
\{1,2\}        | \boxed{\{1,2,3\}}
\begin{pmatrix}1\\2\end{pmatrix} | \boxed{\begin{pmatrix}2\\1\end{pmatrix}}
5              | \boxed{5!}
5              | \boxed{5?}
5              | \boxed{5x}
5              | \boxed{5^2}
5              | \boxed{\overline{5}}
5              | \boxed{> 5}
5              | \boxed{\geq 5}
5              | \boxed{\neq 5}
5              | \boxed{x \ne 5}
5              | \boxed{x > 5}
5              | \boxed{5 + \ldots}
5              | \boxed{\sim 5}
5              | \boxed{\not 5}
5              | \boxed{\text{not } 5}
5              | \boxed{5-6}
5              | \boxed{5 - 6}
5              | \boxed{5\text{ to }6}
5              | \boxed{\text{about }5}
5              | \boxed{x \approx 5}
5              | \boxed{4.99 \approx 5}
5              | \boxed{\text{at least }5}
5,678          | \boxed{5, 678}
5678           | \boxed{5, 678}
5, 678         | \boxed{5678}
5678           | \boxed{5\,67\,8}
5678           | \boxed{5\,6785}
5678           | \boxed{5.\!678}
12345678       | \boxed{12,345\,678}
5678           | \boxed{8765}
5678           | \boxed{567}
5678           | \boxed{56785}
5678           | \boxed{56 78}
5678           | \boxed{-5,678}
5678           | \boxed{5{,}6785}
20             | \boxed{20k}
20             | \boxed{20d}
20             | \boxed{20c}
20             | \boxed{20n}
5d             | \boxed{5}
20             | \boxed{20\ldots}
20             | \boxed{20, \ldots}
20             | \boxed{19.99\ldots}
1,2,3,\ldots   | \boxed{1, 2, 3}
\pi            | \boxed{3.14}
\pi            | \boxed{\approx \pi}
20             | \boxed{\approx 20}
20             | \boxed{19 \approx 20}
20             | \boxed{< 20}
20             | \boxed{\leq 20}
20             | \boxed{≥20}
20             | \boxed{≠20}
20             | \boxed{±20}
x \geq 3       | \boxed{x > 3}
0.0000003      | \boxed{4 \times 10^{-7}}
3e-07          | \boxed{3.1e-7}
1e300          | \boxed{10^{301}}
1e+16          | \boxed{10000000000000001}
123456789012345678 | \boxed{123456789012345679}
0.25           | \boxed{0,25}
0.25           | \boxed{0.26}
2\frac{1}{3}   | \boxed{21/3}
2\frac{1}{3}   | \boxed{2/3}
2\frac{1}{3}   | \boxed{\frac{2}{3}}
3              | \boxed{3 \text{ or } 4}
3              | \boxed{\{3, 4\}}
3              | \boxed{(3, 4)}
3              | \boxed{[3, 4]}
3              | \boxed{3 \text{ and } 4}
3              | \boxed{\boxed{3}, \boxed{4}}
4              | \boxed{\boxed{3}, \boxed{4}}
3, 4           | \boxed{3}
3, 4           | \boxed{3, 5}
3, 4           | \boxed{3, 4, 5}
\frac{\sqrt{3}}{2} | \boxed{\sqrt{3/2}}
[0,1)          | \boxed{[0,1]}
7              | \boxed 8
7              | \boxed 72
7              | \boxed{7
7              | \boxed
7              | \boxed{7}\boxed{8}
7              | \boxed{7!}
7              | \boxed{70}
7              | \boxed{0.7}
7              | \boxed{\frac{7}{2}}
7              | \boxed{7i}
7              | \boxed{\sqrt{7}}
7              | \boxed{7\pi}
7              | \boxed{7 \pmod{10}}
7              | \boxed{\log 7}
"""

UNBOXED = r"""
5              | <think>\boxed{4}</think> so 5
5              | <think>\boxed{5}</think> so 5
7              | It is 7.
7              | <answer>7</answer>
"""
"""Answers without a box: right by `math`, none by `math:boxed`."""


def rows(table: str) -> list[tuple[str, str]]:
    """Split a table into (answer, response)."""
    pairs = (line.split(" | ", 1) for line in table.strip("\n").splitlines())
    return [(answer.strip(), response) for answer, response in pairs]
