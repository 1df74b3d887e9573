voice-call = تماس از { $name }
video-call = تماس تصویری از { $name }
message =
    { $count ->
        [one] پیام از { $name }
       *[other] { $count } پیام از { $name }
    }
missed-call =
    { $count ->
        [one] تماس بی‌پاسخ از { $name }
       *[other] { $count } تماس بی‌پاسخ از { $name }
    }
contact-request = { $name } می‌خواهد شما را به مخاطبان اضافه کند
voicemail =
    { $count ->
        [one] پیام صوتی از { $name }
       *[other] { $count } پیام صوتی از { $name }
    }
file =
    { $count ->
        [one] { $name } برای شما یک پرونده می‌فرستد
       *[other] { $name } برای شما { $count } پرونده می‌فرستد
    }
mail = ایمیل از { $name }
self-test = اعلان آزمایشی رسید
notice = خبر تازه از { $name }
shown-on = { $event } (در { $device } نمایش داده می‌شود)
accept = پذیرفتن
decline = رد کردن
