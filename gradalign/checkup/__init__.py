"""What can be found out about models and servers in a minute, before a run."""

from __future__ import annotations

from gradalign.checkup.teacher import TEXTS, Finding, TeacherCheck, check_teacher

__all__ = ["TEXTS", "Finding", "TeacherCheck", "check_teacher"]
