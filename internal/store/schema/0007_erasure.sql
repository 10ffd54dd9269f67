-- What is about a person is found where they are to be erased.

CREATE INDEX task_person ON task (person) WHERE person <> '';
CREATE INDEX delegation_root ON delegation (root_sub);
CREATE INDEX approval_root ON approval (root_sub);
