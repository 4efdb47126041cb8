"""What the benchmark measures, and how: `problem` is trained by the subjects
of `subjects`, each in a process of its own (`processes`), in turn (`turns`);
`summary` and `figure` show it."""
