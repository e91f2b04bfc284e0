// --- start

for (const element of document.querySelectorAll("[data-script]")) element.hidden = false;
bindList();
bindMap();
bindMarks();
bindViewer();
countMarks();
arrange();
