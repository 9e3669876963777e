import dayjs from "dayjs";

const tick = () => {
  document.querySelector("time").textContent = dayjs().format("HH:mm:ss");
};
setInterval(tick, 1000);
tick();
