// Airflow keeps the theme that its user chose in localStorage; without a choice, the system's holds (cockpit.css).
(function () {
  "use strict";
  function follow() {
    var chosen = null;
    try { chosen = window.localStorage.getItem("theme"); } catch (refused) { /* storage is off: the system's holds */ }
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
  }
  follow();
  window.addEventListener("storage", follow);
})();
